"""Backbones against timm's own models, configurations and weight loading."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from fungistore.backbones.catalogue import describe_backbones, find_backbones
from fungistore.backbones.encoder import Encoder
from fungistore.backbones.families import FAMILIES, feature_set_of, modality_of, split_model
from fungistore.backbones.families import load_backbone as load_any
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.backbones.timm_vit.fitting import fit_weights
from fungistore.backbones.timm_vit.quantized import Int8Linear
from fungistore.backbones.timm_vit.variants import keeps_head
from fungistore.backbones.timm_vit.weights import digest_weights
from fungistore.errors import FungiError, UsageError

SeededModel = Callable[..., Any]
WeightsFile = Callable[[str], Path]
CLASSES = {1000, 11_221, 11_821, 21_841, 21_843, 115_217}  # label sets of ImageNet and its like


class Payload:
    """An object whose unpickling would create a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.marker), 0o700)


def load_backbone(model: str, **options: Any) -> TimmViT:
    """Load as `--model` does; every model here is timm's."""
    encoder = load_any(model, **options)
    assert isinstance(encoder, TimmViT)
    return encoder


def usage_error(call: Callable[[], object], *patterns: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        call()
    for pattern in patterns:
        assert re.search(pattern, str(caught.value)), str(caught.value)
    return caught.value


def pixels_for(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_a_weights_file_gives_timms_embedding(
    weights_file: WeightsFile, seeded_model: SeededModel
) -> None:
    """A backbone with weights from a file embeds, bit for bit, as the timm model that was saved."""
    backbone = load_backbone("test_vit", weights=weights_file("test_vit"))
    model = seeded_model("test_vit", num_classes=0)
    pixels = pixels_for(160)
    assert torch.equal(backbone.module(pixels), model(pixels))
    assert (backbone.name, backbone.image_size, backbone.patch_size) == ("test_vit", 160, 16)
    assert (backbone.embedding_dim, backbone.token_dim) == (64, 64)
    assert (backbone.prefix_tokens, backbone.pooling) == (1, "token")
    assert backbone.target_layer == "blocks.5.attn.proj"
    assert backbone.target is backbone.module.blocks[5].attn.proj
    assert backbone.target_block == 5
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


@pytest.mark.parametrize("name", ["test_vit2", "deit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_weights_of_other_families_load_too(
    name: str, weights_file: WeightsFile, seeded_model: SeededModel
) -> None:
    """Average-pooled, distilled-era and rotary models round-trip through a file as well."""
    backbone = load_backbone(name, weights=weights_file(name))
    pixels = pixels_for(backbone.image_size)
    assert torch.equal(backbone.module(pixels), seeded_model(name, num_classes=0)(pixels))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"teacher": {f"backbone.{k}": v for k, v in state.items()}, "student": {}},
        lambda state: {"state_dict": {f"module.encoder.{k}": v for k, v in state.items()}},
        lambda state: {"model": {"state_dict": {f"model.{k}": v for k, v in state.items()}}},
    ],
    ids=["bare", "state_dict", "module", "teacher-backbone", "module-encoder", "nested"],
)
def test_wrappers_and_prefixes_of_training_code_are_removed(
    wrap: Callable[[dict[str, Tensor]], object],
    tmp_path: Path,
    weights_file: WeightsFile,
) -> None:
    """A checkpoint gives the same weights however the training code wrapped and named them."""
    plain = load_backbone("test_vit", weights=weights_file("test_vit"))
    torch.save(wrap(load_file(weights_file("test_vit"))), tmp_path / "checkpoint.pt")
    wrapped = load_backbone("test_vit", weights=tmp_path / "checkpoint.pt")
    assert wrapped.weights_hash == plain.weights_hash


def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path) -> None:
    """A torch file that would call a function on loading is refused, and nothing is called."""
    marker = tmp_path / "was-here"
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": {"cls_token": Payload(marker)}}, path)
    error = usage_error(
        lambda: load_backbone("test_vit", weights=path), "cannot be read", "safetensors"
    )
    assert str(path) in str(error)
    assert error.exit_code == 2
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the file was dangerous indeed


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.safetensors", b"not safetensors"),
        ("weights.safetensors", b""),
        ("weights.pt", b"not a torch file"),
        ("weights.pt", b""),
        ("weights.pth", b"PK\x03\x04 a broken zip archive"),
    ],
)
def test_a_broken_weights_file_is_a_usage_error(tmp_path: Path, name: str, content: bytes) -> None:
    """Whatever the file holds, the error names it and says what was expected."""
    (tmp_path / name).write_bytes(content)
    usage_error(
        lambda: load_backbone("test_vit", weights=tmp_path / name),
        "cannot be read",
        re.escape(name),
    )


@pytest.mark.parametrize("value", [torch.zeros(3), [torch.zeros(3)]], ids=["tensor", "list"])
def test_a_torch_file_without_a_state_dict_is_a_usage_error(tmp_path: Path, value: object) -> None:
    """A file that holds a tensor or a list, and no names, is refused as one that does not fit."""
    torch.save(value, tmp_path / "weights.pt")
    usage_error(lambda: load_backbone("test_vit", weights=tmp_path / "weights.pt"))


def test_a_missing_weights_file_is_a_usage_error(tmp_path: Path) -> None:
    """The error names the path that is not there."""
    usage_error(
        lambda: load_backbone("test_vit", weights=tmp_path / "none.safetensors"),
        "no such weights file",
        "none.safetensors",
    )


def test_weights_that_do_not_fit_are_named(tmp_path: Path, weights_file: WeightsFile) -> None:
    """Missing, unexpected and misshapen tensors are counted and named, all in one error."""
    state = load_file(weights_file("test_vit"))
    del state["norm.weight"]
    state["blocks.9.surprise"] = torch.zeros(1)
    state["blocks.2.attn.proj.weight"] = torch.zeros(64, 32)
    save_file(state, tmp_path / "odd.safetensors")
    error = usage_error(
        lambda: load_backbone("test_vit", weights=tmp_path / "odd.safetensors"),
        r"1 missing \(norm\.weight\)",
        r"1 unexpected \(blocks\.9\.surprise\)",
        r"1 of another shape \(blocks\.2\.attn\.proj\.weight \(64, 32\) for \(64, 64\)\)",
        "odd.safetensors",
    )
    assert "--model" in (error.hint or "")


def test_weights_of_another_architecture_are_named_in_short(weights_file: WeightsFile) -> None:
    """A wholly different file shows a few names, not hundreds."""
    error = usage_error(
        lambda: load_backbone("deit_tiny_patch16_224", weights=weights_file("test_vit")),
        r"\d+ missing \(.*, \.\.\.\)",
        r"\d+ of another shape \(.*, \.\.\.\)",
    )
    assert len(str(error)) < 1500


def test_a_classifier_in_the_file_is_ignored(
    tmp_path: Path, weights_file: WeightsFile, seeded_model: SeededModel
) -> None:
    """Weights saved with their thousand-class head give the same backbone as without it."""
    whole = seeded_model("test_vit", num_classes=1000)
    state = whole.state_dict() | load_file(weights_file("test_vit"))
    assert "head.weight" in state
    save_file(state, tmp_path / "whole.safetensors")
    backbone = load_backbone("test_vit", weights=tmp_path / "whole.safetensors")
    plain = load_backbone("test_vit", weights=weights_file("test_vit"))
    assert backbone.weights_hash == plain.weights_hash
    assert backbone.embedding_dim == 64


@pytest.mark.parametrize("image_size", [96, 160, 224])
def test_position_embeddings_are_resampled_as_timm_does(
    image_size: int, weights_file: WeightsFile
) -> None:
    """At another image size the parameters equal those of timm's own loading from a file."""
    path = weights_file("test_vit")
    backbone = load_backbone("test_vit", weights=path, image_size=image_size)
    theirs: Any = timm.create_model(
        "test_vit",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 0},
        img_size=image_size,
        num_classes=0,
    )
    ours, expected = backbone.module.state_dict(), theirs.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in ours)
    assert backbone.image_size == image_size
    assert ours["pos_embed"].shape[1] == (image_size // 16) ** 2 + 1
    assert backbone.module(pixels_for(image_size)).shape == (2, 64)


def test_a_model_for_several_sizes_embeds_its_own_size_the_same(
    weights_file: WeightsFile,
) -> None:
    """A view size other than "model" lets other inputs in and leaves the own size as it was."""
    path = weights_file("test_vit")
    fixed = load_backbone("test_vit", weights=path)
    flexible = load_backbone("test_vit", weights=path, view_size="native")
    pixels = pixels_for(160)
    assert torch.allclose(fixed.module(pixels), flexible.module(pixels), atol=1e-5)
    assert flexible.module(pixels_for(96)).shape == (2, 64)
    assert flexible.weights_hash == fixed.weights_hash


def test_an_unknown_model_suggests_near_names() -> None:
    """A misspelt name is answered with names that exist; nonsense with the command to list them."""
    error = usage_error(lambda: load_backbone("vit_smal_patch14_dinov2"), "unknown model")
    assert "vit_small_patch14_dinov2" in str(error)
    usage_error(lambda: load_backbone("qqqqqqq.zzz"), "unknown model", "fungi models")
    error = usage_error(lambda: load_backbone("dinov2"), "unknown model", "`fungi models dinov2`")
    assert "did you mean" not in str(error)


def test_without_a_hub_the_other_ways_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that `fungi demo` has left in the cache is named; else that there is such a way."""

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("fungistore.backbones.timm_vit.weights.load_pretrained", fail)
    monkeypatch.setenv("FUNGI_CACHE", str(tmp_path / "my cache"))
    model = "vit_small_patch14_dinov2.lvd142m"
    for there in (False, True):
        with pytest.raises(FungiError, match="weights cannot be had") as caught:
            load_backbone(model, image_size=28)
        file = tmp_path / "my cache" / "vit_small_patch14_dinov2.safetensors"
        assert (f"--weights '{file}'" in str(caught.value.hint)) == there
        assert ("fungi demo" in str(caught.value.hint)) != there
        file.parent.mkdir(exist_ok=True)
        file.touch()


@pytest.mark.parametrize(("image_size", "hints"), [(100, (96, 112)), (15, (16, 32)), (225, (224,))])
def test_an_image_size_must_be_a_multiple_of_the_patch_size(
    image_size: int, hints: tuple[int, ...], tmp_path: Path
) -> None:
    """The error comes before the weights are looked for, and names sizes that work."""
    error = usage_error(
        lambda: load_backbone("test_vit", weights=tmp_path / "none", image_size=image_size),
        "not a multiple of the patch size",
        "a multiple of 16",
    )
    for hint in hints:
        assert str(hint) in (error.hint or "")


@pytest.mark.parametrize("layer", ["blocks.5.attn.prj", "blocks.5", "norm", "blocks.77.attn.proj"])
def test_a_target_that_is_no_linear_layer_is_refused(layer: str, weights_file: WeightsFile) -> None:
    """The error names linear layers that the model has."""
    error = usage_error(
        lambda: load_backbone("test_vit", weights=weights_file("test_vit"), target_layer=layer),
        "not a linear layer",
        re.escape(layer),
    )
    assert re.search(r"blocks\.\d\.(attn|mlp)\.\w+", str(error.expected))


def test_any_linear_layer_can_be_the_target(weights_file: WeightsFile) -> None:
    """A layer of an earlier block is found, and the block that holds it is known."""
    backbone = load_backbone(
        "test_vit", weights=weights_file("test_vit"), target_layer="blocks.3.mlp.fc1"
    )
    assert isinstance(backbone.target, nn.Linear)
    assert backbone.target is backbone.module.blocks[3].mlp.fc1
    assert backbone.target_block == 3


@pytest.mark.parametrize("name", ["vit_small_patch16_18x2_224", "vit_pwee_patch16_reg1_gap_256"])
def test_the_catalogues_target_layer_exists(name: str) -> None:
    """The target layer on a card is a linear layer of that model."""
    (card,) = describe_backbones([name])
    with torch.device("meta"):
        model: Any = timm.create_model(name, pretrained=False)
    layers = {key for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert card.target_layer in layers


@pytest.mark.parametrize(
    ("name", "kept", "width"),
    [
        ("vit_base_patch16_clip_224.openai", True, 512),
        ("vit_base_patch16_clip_224.openai_ft_in1k", False, 768),
        ("vit_base_patch16_clip_224.openai_ft_in12k", False, 768),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", False, 768),
        ("vit_base_patch16_clip_quickgelu_224.openai", True, 512),
        ("eva02_base_patch16_clip_224.merged2b", True, 512),
        ("vit_small_patch16_224.augreg_in21k", False, 384),
    ],
)
def test_clip_models_keep_their_projection_and_others_lose_their_classifier(
    name: str, kept: bool, width: int
) -> None:
    """CLIP's joint space is the embedding; a fine-tuned tag's last layer is a classifier."""
    assert keeps_head(name) is kept
    (card,) = describe_backbones([name])
    assert card.embedding_dim == width


def test_no_clip_weights_in_timm_have_their_head_misjudged() -> None:
    """Of every tagged CLIP model, the head is kept exactly where timm's is no classifier."""
    tagged = [name for name in find_backbones("*clip*") if "." in name]
    assert len(tagged) > 60
    wrong = {
        name: timm.get_pretrained_cfg(name).num_classes
        for name in tagged
        if keeps_head(name) == (timm.get_pretrained_cfg(name).num_classes in CLASSES)
    }
    assert wrong == {}


def test_a_clip_name_without_a_tag_is_judged_by_timms_default_tag() -> None:
    """A bare name means the weights that timm takes for it, and their head is judged by them."""
    bare = [name for name in find_backbones("*clip*") if "." not in name]
    wrong = {}
    for name in bare:
        config = timm.get_pretrained_cfg(name)
        if config is not None and keeps_head(name) == (config.num_classes in CLASSES):
            wrong[name] = f"{config.tag}: {config.num_classes}"
    assert wrong == {}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("test_vit", "test_vit"),
        ("deit_tiny_patch16_224", "deit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.augreg_in21k", "deit_tiny_patch16_224"),  # one architecture
        ("vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", None),
    ],
)
def test_the_transform_is_the_one_that_timm_records_for_the_weights(
    name: str, weights: str | None, tmp_path: Path, weights_file: WeightsFile
) -> None:
    """Mean, deviation, interpolation and crop are timm's own for the tag, at the size asked for."""
    model: Any = timm.create_model(name, pretrained=False)
    if weights is None:
        path = tmp_path / "clip.safetensors"
        save_file(model.state_dict(), path)
    else:
        path = weights_file(weights)
    own = resolve_model_data_config(model)
    assert load_backbone(name, weights=path).data_config == own
    resized = load_backbone(name, weights=path, image_size=96)
    assert resized.data_config == own | {"input_size": (3, 96, 96)}
    assert resized.image_size == 96


def test_the_hash_changes_with_a_single_weight(weights_file: WeightsFile) -> None:
    """One weight moved by the least possible amount gives another hash; loading again does not."""
    path = weights_file("test_vit")
    backbone = load_backbone("test_vit", weights=path)
    assert backbone.weights_hash == load_backbone("test_vit", weights=path).weights_hash
    assert backbone.weights_hash == digest_weights(backbone.module.state_dict())
    weight = backbone.module.blocks[3].mlp.fc2.weight
    weight.data[5, 7] = torch.nextafter(weight.data[5, 7], torch.tensor(torch.inf))
    assert digest_weights(backbone.module.state_dict()) != backbone.weights_hash


def test_the_hash_knows_a_swap_of_equal_shapes(seeded_model: SeededModel) -> None:
    """The same bytes under other names give another hash."""
    one, other = seeded_model("test_vit"), seeded_model("test_vit")
    first, second = other.blocks[0].attn.proj.weight, other.blocks[1].attn.proj.weight
    first.data, second.data = second.data.clone(), first.data.clone()
    assert digest_weights(one.state_dict()) != digest_weights(other.state_dict())


def test_half_precision_weights_become_float32(tmp_path: Path, weights_file: WeightsFile) -> None:
    """A file in float16 loads into a model that stays in float32."""
    state = {key: value.half() for key, value in load_file(weights_file("test_vit")).items()}
    save_file(state, tmp_path / "half.safetensors")
    backbone = load_backbone("test_vit", weights=tmp_path / "half.safetensors")
    for key, value in backbone.module.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_equal_hashes_mean_equal_models_at_any_size(
    tmp_path: Path, weights_file: WeightsFile, dtype: torch.dtype
) -> None:
    """Position embeddings stored in another precision are resampled in float32 all the same."""
    whole = load_file(weights_file("test_vit"))
    for name, kind in (("stored", dtype), ("float32", torch.float32)):
        state = {key: value.to(dtype).to(kind) for key, value in whole.items()}
        save_file(state, tmp_path / f"{name}.safetensors")
    stored, plain = (
        load_backbone("test_vit", weights=tmp_path / f"{name}.safetensors", image_size=64)
        for name in ("stored", "float32")
    )
    assert stored.weights_hash == plain.weights_hash
    assert torch.equal(stored.module.pos_embed, plain.module.pos_embed)


def test_pretrained_weights_that_cannot_be_had_are_explained() -> None:
    """An architecture without pretrained weights fails with the flag that gives a file."""
    with pytest.raises(FungiError) as caught:
        load_backbone("test_vit4")
    assert "--weights" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "among", "not_among"),
    [
        ("*dinov2*", "vit_small_patch14_dinov2.lvd142m", "deit_tiny_patch16_224.fb_in1k"),
        ("dinov2", "vit_small_patch14_dinov2.lvd142m", "deit_tiny_patch16_224.fb_in1k"),
        ("deit_tiny*", "deit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("test_vit[23]*", "test_vit2.r160_in1k", "test_vit.r160_in1k"),
        ("eva02*", "eva02_tiny_patch14_224.mim_in22k", "eva_giant_patch14_224.clip_ft_in1k"),
        ("beit??_base*", "beitv2_base_patch16_224.in1k_ft_in22k", "beit_base_patch16_224"),
    ],
)
def test_backbones_are_found_by_pattern(pattern: str, among: str, not_among: str) -> None:
    """A shell pattern, or a part of the name, finds architectures and their pretrained tags."""
    names = find_backbones(pattern)
    assert among in names
    assert not_among not in names
    assert names == sorted(set(names))


def test_a_pattern_that_fits_nothing_finds_nothing() -> None:
    """No match is an empty list, not an error."""
    assert find_backbones("no-such-model") == []
    assert list(describe_backbones([])) == []


def test_cards_describe_the_models_without_weights() -> None:
    """A card's sizes are those of the model that load_backbone would build."""
    (card,) = describe_backbones(["test_vit"])
    assert (card.image_size, card.patch_size, card.embedding_dim) == (160, 16, 64)
    assert card.target_layer == "blocks.5.attn.proj"
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)
    assert card.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_patch_tokens_become_a_grid(weights_file: WeightsFile) -> None:
    """Prefix tokens are dropped, and the patches keep their rows and columns."""
    backbone = load_backbone("test_vit", weights=weights_file("test_vit"), image_size=64)
    tokens = torch.arange(17).reshape(1, 17, 1)
    assert backbone.to_grid(tokens)[0, :, :, 0].tolist() == [
        [1 + 4 * row + column for column in range(4)] for row in range(4)
    ]


def test_int8_lowers_the_blocks_between_the_first_and_the_target(weights_file: WeightsFile) -> None:
    """The first block's errors would pass through all; the target's block is differentiated."""
    backbone = load_backbone(
        "test_vit", weights=weights_file("test_vit"), target_layer="blocks.4.attn.proj"
    )
    blocks = backbone.module.blocks
    backbone.prepare_trunk(torch.int8)
    assert backbone.dtype == torch.float32
    assert backbone.exact_from is blocks[4]
    lowered = [any(type(layer) is Int8Linear for layer in block.modules()) for block in blocks]
    assert lowered == [False, True, True, True, False, False]
    assert all(parameter.dtype == torch.float32 for parameter in backbone.module.parameters())


def test_a_models_family_stands_before_its_name(weights_file: WeightsFile) -> None:
    """Without a family it is timm's, whose name may be said, too."""
    path = weights_file("test_vit")
    plain, named = (load_backbone(name, weights=path) for name in ("test_vit", "timm:test_vit"))
    assert plain.identity() == named.identity()
    assert isinstance(plain, Encoder)
    assert split_model("timm:vit_tiny.tag") == ("timm", "vit_tiny.tag")
    assert (modality_of("vit_tiny"), modality_of("timm:vit_tiny")) == ("image", "image")
    assert (feature_set_of("vit_tiny.tag"), feature_set_of("timm:vit_tiny")) == (
        "vit_tiny.tag",
        "vit_tiny",
    )
    assert next(iter(FAMILIES)) == "timm"


@pytest.mark.parametrize("name", [":x", "C:/w.pt"])
def test_a_family_that_is_not_there_is_refused(name: str) -> None:
    """A path says what --model takes, and how a file is given."""
    error = usage_error(lambda: load_any(name), "unknown backbone family", re.escape(name), "timm")
    assert "--weights" in (error.hint or "")


def test_what_tells_a_models_modality_imports_no_torch() -> None:
    """The command line asks before anything is loaded."""
    code = "import sys; from fungistore.backbones.families import modality_of as of; of('x')"
    code += "; assert not {'torch', 'timm'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("dim", "token_shape"), [(224, (14, 14)), (96, (6, 6))])
def test_an_encoder_says_how_many_tokens_a_view_has(
    dim: int, token_shape: tuple[int, int], weights_file: WeightsFile
) -> None:
    """Of its own input size, and of any input."""
    encoder = load_backbone("test_vit", weights=weights_file("test_vit"), image_size=dim)
    assert encoder.token_shape == token_shape
    assert encoder.count_tokens((torch.zeros(1, 3, 32, 32),)) == 4
    encoded = encoder.run((pixels_for(dim),))
    assert torch.equal(encoded.embeddings, encoder.module(pixels_for(dim)))
    assert (encoded.grid.tokens.shape, encoded.grid.mask) == ((2, *token_shape, 64), None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, weights_file: WeightsFile) -> None:
    """timm's hub, with the tiny model's weights and a classifier that was published with them."""
    state = load_file(weights_file("test_vit"))
    state |= {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: state)


@pytest.mark.parametrize("image_size", [None, 96])
def test_published_weights_are_those_of_their_file(
    image_size: int | None, hub: None, weights_file: WeightsFile
) -> None:
    """Downloaded and from a file, at any size, weights are the same model with the same hash."""
    published = load_backbone("test_vit", image_size=image_size)
    filed = load_backbone("test_vit", weights=weights_file("test_vit"), image_size=image_size)
    assert published.weights_hash == filed.weights_hash
    ours, theirs = published.module.state_dict(), filed.module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert published.left_out == ("head.bias", "head.weight")
    assert any("left out: head.bias, head.weight" in remark for remark in published.remarks)


@pytest.mark.parametrize("source", ["file", "hub"])
def test_nothing_computed_here_enters_the_hash(
    source: str, hub: None, weights_file: WeightsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that resamples position embeddings otherwise gives the weights the same hash."""
    weights = weights_file("test_vit") if source == "file" else None
    before = load_backbone("test_vit", weights=weights, image_size=96)
    module = timm.models.vision_transformer
    exact = module.resample_abs_pos_embed
    monkeypatch.setattr(
        module, "resample_abs_pos_embed", lambda *args, **options: exact(*args, **options) + 1e-6
    )
    after = load_backbone("test_vit", weights=weights, image_size=96)
    assert not torch.equal(before.module.pos_embed, after.module.pos_embed)
    assert after.weights_hash == before.weights_hash
    assert after.weights_hash == load_backbone("test_vit", weights=weights).weights_hash


@pytest.mark.slow
def test_the_hash_is_the_same_on_another_kind_of_cpu(weights_file: WeightsFile) -> None:
    """With the plainest instructions a resampled model has the same identity as with the best."""
    program = (
        "import sys; from pathlib import Path; "
        "from fungistore.backbones.families import load_backbone; "
        "from fungistore.gradients.projection import ProjectionSpec; "
        "print(load_backbone('test_vit', weights=Path(sys.argv[1]), image_size=224).identity(), "
        "[ProjectionSpec(kind, 64, 5000, 1).digest() "
        "for kind in ('binary', 'gaussian', 'sparse', 'very-sparse')])"
    )
    command = [sys.executable, "-c", program, str(weights_file("test_vit"))]
    plain = {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4"}
    found = {
        subprocess.run(command, env=os.environ | env, capture_output=True, check=True).stdout
        for env in ({}, plain)
    }
    assert len(found) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of BEiT's position biases
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("flexivit_small", {}),
        ("deit3_small_patch16_224", {}),
        ("vit_base_patch16_rope_224", {}),
        ("beit_base_patch16_224", {"use_rel_pos_bias": True}),
        ("eva02_tiny_patch14_224", {}),
    ],
)
def test_stored_weights_are_converted_as_timm_does(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """At another size, position embeddings are resampled as timm's builder of that model does."""
    small = {"embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 0} | options
    torch.manual_seed(0)
    stored = timm.create_model(name, pretrained=False, **small).state_dict()
    save_file(stored, tmp_path / "own.safetensors")
    side = 8 * timm.create_model(name, pretrained=False, **small).patch_embed.patch_size[0]
    overlay = {"file": str(tmp_path / "own.safetensors"), "num_classes": 0, "custom_load": False}
    theirs: Any = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=side, **small
    )
    ours = timm.create_model(name, pretrained=False, img_size=side, **small)
    fit_weights(ours, stored, name, where=name, extra_is_error=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key
