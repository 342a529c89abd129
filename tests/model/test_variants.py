"""Which variant a weights file is: its head and its transform are read off the file, and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fungistore.backbones.families import load_backbone
from fungistore.backbones.timm_vit.fitting import fit_weights
from fungistore.backbones.timm_vit.variants import variant_of_file
from fungistore.errors import UsageError
from tiny_world import TINY

CLIP, VIT = "vit_base_patch16_clip_224", "vit_base_patch16_224"
FILE = Path("/nowhere/model.safetensors")


def headed(outputs: int, name: str = "head.weight") -> dict[str, Any]:
    shape = (768, outputs) if name.endswith("visual.proj") else (outputs, 768)
    return {name: torch.zeros(shape)}


@pytest.mark.parametrize("name", ["head.weight", "visual.proj", "visual.head.proj.weight"])
def test_a_clip_file_keeps_its_projection_under_a_bare_name(name: str) -> None:
    """timm's default tag of this name is fine-tuned; a head of 512 says that the file is not."""
    assert "in1k" in timm.get_pretrained_cfg(CLIP).tag
    variant = variant_of_file(CLIP, headed(512, name), FILE)
    assert variant.keeps_head
    assert timm.get_pretrained_cfg(variant.name).num_classes == 512


@pytest.mark.parametrize("outputs", [1000, 11821, 37])
def test_a_classifier_is_no_projection(outputs: int) -> None:
    """A fine-tuned file's head is left out, whosever classes they are, and its own tag chosen."""
    variant = variant_of_file(CLIP, headed(outputs), FILE)
    assert not variant.keeps_head
    classes = timm.get_pretrained_cfg(variant.name).num_classes
    assert classes == (outputs if outputs > 37 else 1000)


def test_a_tag_decides_and_is_held_against_the_file() -> None:
    """A classifier's tag for a CLIP file is refused, with the name that suits the file."""
    assert variant_of_file(f"{CLIP}.openai", headed(512), FILE).keeps_head
    assert not variant_of_file(f"{CLIP}.openai_ft_in1k", headed(1000), FILE).keeps_head
    assert not variant_of_file(f"{CLIP}.openai_ft_in1k", headed(37), FILE).keeps_head
    with pytest.raises(UsageError, match="joint space") as caught:
        variant_of_file(f"{CLIP}.openai_ft_in1k", headed(512), FILE)
    assert f"--model {CLIP}." in str(caught.value)


@pytest.mark.parametrize("with_file", [True, False])
def test_a_tag_that_does_not_exist_is_refused(tiny_weights: Path, with_file: bool) -> None:
    """The message lists the tags that there are, with and without a weights file."""
    for name in (f"{TINY}.madeup", f"{TINY}."):
        with pytest.raises(UsageError, match="no weights of this tag") as caught:
            load_backbone(name, weights=tiny_weights if with_file else None)
        assert "r160_in1k" in str(caught.value)


def test_variants_with_different_transforms_are_a_doubt_that_is_said() -> None:
    """Where the file does not tell, the user hears which transform was taken, and how to choose."""
    (doubt,) = variant_of_file(VIT, {}, FILE).doubts
    for word in ("mean", VIT, "--model", "augreg"):
        assert word in doubt
    assert variant_of_file(f"{VIT}.dino", {}, FILE).doubts == ()
    assert variant_of_file("vit_small_patch14_dinov2", {}, FILE).doubts == ()


def test_timms_config_beside_a_file_tells_its_transform(tmp_path: Path) -> None:
    """config.json of timm's hub decides for a bare name, and is held against a tag."""
    stored = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "crop_pct": 0.5, "num_classes": 512}
    path, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    config.write_text(json.dumps({"architecture": CLIP, "pretrained_cfg": stored}))
    bare = variant_of_file(CLIP, headed(512), path)
    assert bare.keeps_head
    assert bare.overlay == {"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "crop_pct": 0.5}
    assert "config.json" in bare.source
    assert bare.doubts == ()
    tagged = variant_of_file(f"{CLIP}.openai", headed(512), path)
    assert tagged.overlay == {}
    assert "config.json" in tagged.doubts[0]
    assert "mean" in tagged.doubts[0]
    config.write_text(json.dumps({"architecture": VIT, "pretrained_cfg": stored}))
    assert variant_of_file(CLIP, headed(512), path).overlay == {}  # of another model
    assert "config.json" not in str(variant_of_file(CLIP, headed(512), path).doubts)
    for broken in (
        {"mean": "x"},
        {"mean": [float("nan")] * 3},
        {"mean": [True, False, True]},
        {"std": [1, 2]},
        {"std": [0, 1, 1]},
        {"std": [1, 1, float("inf")]},
        {"crop_pct": 0},
        {"crop_pct": 50.0},
        {"crop_mode": ["center"]},
    ):
        config.write_text(json.dumps({"architecture": CLIP, "pretrained_cfg": stored | broken}))
        for name in (CLIP, f"{CLIP}.openai"):
            variant = variant_of_file(name, headed(512), path)
            assert variant.overlay == {}
            (doubt,) = [one for one in variant.doubts if "config.json" in one]
            assert next(iter(broken)) in doubt  # it is said what is wrong, and what holds instead
            assert variant.name in doubt
    config.write_text("[]")
    assert variant_of_file(CLIP, headed(512), path).overlay == {}


def test_the_config_beside_a_file_is_the_transform(tmp_path: Path, tiny_weights: Path) -> None:
    """The encoder shows images as the file's own config says."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    stored = {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.5, "interpolation": "bilinear"}
    document = {"architecture": "test_vit", "pretrained_cfg": stored}
    (tmp_path / "config.json").write_text(json.dumps(document))
    encoder: Any = load_backbone("test_vit", weights=path)
    assert encoder.data_config["mean"] == (0.1, 0.2, 0.3)
    assert encoder.identity()["transform"]["crop_pct"] == 0.5
    assert "transform of config.json beside the weights" in encoder.remarks[0]
    assert "bilinear" in encoder.remarks[0]


def test_what_is_left_out_of_a_file_is_said(tmp_path: Path, tiny_weights: Path) -> None:
    """A classifier in the file, in timm's or in OpenCLIP's form, is named in the remarks."""
    state = load_file(tiny_weights)
    head = {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    save_file(state | head, tmp_path / "whole.safetensors")
    encoder: Any = load_backbone("test_vit", weights=tmp_path / "whole.safetensors")
    assert encoder.left_out == ("head.bias", "head.weight")
    assert "left out: head.bias, head.weight" in encoder.remarks[0]

    openclip = {f"visual.trunk.{name}": tensor for name, tensor in state.items()}
    openclip |= {"visual.head.proj.weight": torch.zeros(512, 64), "logit_scale": torch.zeros(1)}
    openclip["transformer.resblocks.0.mlp.c_proj.weight"] = torch.zeros(4, 4)  # the text's
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)
    fitted = fit_weights(model, openclip, "test_vit", where=FILE, extra_is_error=True)
    assert fitted.left_out == ("visual.head.proj.weight",)
    assert torch.equal(model.state_dict()["norm.weight"], state["norm.weight"])


def test_pooling_weights_that_a_published_model_drops_are_said() -> None:
    """timm's average-pooled SigLIP has no place for the attention pool of its own weights."""
    small = {"embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 0, "img_size": 32}
    pooled = timm.create_model("vit_base_patch16_siglip_224", pretrained=False, **small)
    model = timm.create_model("vit_base_patch16_siglip_gap_224", pretrained=False, **small)
    state = pooled.state_dict()
    with pytest.raises(UsageError, match="unexpected"):
        fit_weights(model, state, "vit_base_patch16_siglip_gap_224", where="", extra_is_error=True)
    fitted = fit_weights(
        model, state, "vit_base_patch16_siglip_gap_224", where="", extra_is_error=False
    )
    assert "attn_pool.latent" in fitted.left_out
    assert all(name.startswith("attn_pool") for name in fitted.left_out)


def test_a_clip_file_is_embedded_in_the_joint_space(tmp_path: Path) -> None:
    """End to end: the embedding of a CLIP model is its projection's, with the file's numbers."""
    name = "vit_xsmall_patch16_clip_224"
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=512).eval()
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    encoder: Any = load_backbone(name, weights=tmp_path / "clip.safetensors")
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(encoder.module(pixels), model(pixels))
    assert encoder.embedding_dim == 512
    assert encoder.left_out == ()
    assert "512 numbers" in encoder.remarks[0]
