"""Every name that timm has: all features of it are extracted, or it is refused with a reason."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from fungistore.backbones.timm_vit import loading
from fungistore.backbones.timm_vit.anatomy import examine, is_plain
from fungistore.backbones.timm_vit.targets import candidates, default_target
from fungistore.errors import FungiError, UsageError
from fungistore.extraction.batches import stack_drawn
from fungistore.extraction.freeze import throwaway_features
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import resolve
from fungistore.objectives.dino import DINO
from fungistore.objectives.simclr import SimCLR

SMALL = {
    "dino": DINO(local_crops=1, head_dim=8),
    "simclr": SimCLR(stride_scale=1, negatives=1, head_dim=8),
}
VECTORS = ("embeddings", "kl", "dino", "simclr")
LARGEST = 200_000_000  # parameters of a model that is run; larger ones are judged by their sketch


def sketch_of(name: str) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False, num_classes=0)


@pytest.fixture(autouse=True)
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for timm's hub."""

    def weights(sketch: Any, name: str) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {key: _random(key, value, generator) for key, value in sketch.state_dict().items()}

    monkeypatch.setattr(loading, "download_weights", weights)


def _random(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    if name.endswith("running_var"):
        return torch.ones(like.shape)
    is_norm = like.ndim == 1 and name.endswith("weight")
    return 0.02 * torch.randn(like.shape, generator=generator) + float(is_norm)


def extracted(name: str, side: int | None, features: Sequence[str], **options: Any) -> None:
    """Make all features of two images of noise, of the right shapes and finite."""
    settings: dict[str, Any] = {"dtype": "float32", "batch_size": 2, "projection_dim": 8} | options
    asked = ExtractOptions(
        model=name,
        image_size=side,
        features=tuple(features),
        device="cpu",
        objectives=SMALL,
        **settings,
    )
    resolved = resolve(asked, {})
    maker, names = throwaway_features(resolved), frozenset(features)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (80, 90, 3), dtype=np.uint8) for _ in range(2)]
    drawn = stack_drawn([maker.drawer.draw(one, str(n), names) for n, one in enumerate(images)])
    made = maker.compute(drawn, names)
    for spec in resolved.arrays:
        assert made[spec.path].shape == (2, *spec.row_shape), spec.path
        assert np.isfinite(made[spec.path]).all(), spec.path
    if "embeddings" in features and asked.dtype == "float32":
        (group,) = drawn["embeddings"]
        (pixels,) = resolved.backbone.base_view.render(group.arrays, 0, slice(0, 1))
        expected = resolved.backbone.module(pixels[:, 0]).detach().numpy()
        scale = np.abs(expected).max()
        assert scale > 0, "an embedding of zeros says nothing"
        np.testing.assert_allclose(made["embeddings"] / scale, expected / scale, atol=1e-4)


def outcome(name: str, side: int | None, features: Sequence[str], **options: Any) -> str:
    """Return "" where it works or is refused by us, else what happened."""
    try:
        extracted(name, side, features, **options)
    except FungiError as error:
        is_our_size = "own size only" in error.what and options.get("view_size") == "native"
        return "" if is_our_size or side is None else f"refused at {side}: {error.what}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _kind(model: Any) -> Hashable:
    """What models of one kind have in common: their modules, whatever how many and how wide."""
    modules = ((re.sub(r"\d+", "#", name), type(m).__name__) for name, m in model.named_modules())
    tokens = (getattr(model, "num_prefix_tokens", 1) > 1, getattr(model, "no_embed_class", None))
    return type(model).__name__, frozenset(modules), str(getattr(model, "global_pool", "")), tokens


def _faults_of(name: str, parameters: int) -> Iterator[str]:
    sketch = sketch_of(name)
    anatomy = examine(sketch, name, None)
    if parameters > LARGEST:
        return
    target = default_target(sketch, anatomy)
    if target is None:
        with pytest.raises(UsageError, match="no layer to differentiate") as caught:
            extracted(name, None, ["kl"])
        assert candidates(anatomy)[0] in str(caught.value.hint)
    has_places = anatomy.layout is not None
    if not has_places:
        with pytest.raises(UsageError, match="no places in a grid"):
            extracted(name, None, ["patches"])
    layer = target or candidates(anatomy)[0]
    places = ["patches"][:has_places]
    if not is_plain(sketch):
        yield outcome(name, None, ["embeddings", "kl", *places], target_layer=layer)
        own = examine(sketch, name, None).width
        yield outcome(name, own, ["embeddings", "dino"], target_layer=layer, view_size="native")
        return
    side = 4 * anatomy.patch_size
    features = ["embeddings", *(VECTORS[1:] if target else ()), *places]
    yield outcome(name, side, features)
    yield outcome(name, None, [f for f in features if f in ("embeddings", "kl", "patches")])
    yield outcome(name, side, features, dtype="bfloat16")
    yield outcome(name, 2 * side, features, view_size="native")


@pytest.mark.slow
def test_every_name_of_timm_is_extracted_or_refused() -> None:
    """Of each kind of model the smallest is run with random weights; no error is unexpected.

    Models that give no embedding are refused with a UsageError. Takes an hour and 3 GB on one core.
    """
    kinds: dict[Hashable, list[tuple[int, str]]] = defaultdict(list)
    faults: dict[str, str] = {}
    refused = set()
    for name in timm.list_models():
        sketch = sketch_of(name)
        try:
            anatomy = examine(sketch, name, None)
        except UsageError:
            refused.add(name)
            continue
        parameters = sum(parameter.numel() for parameter in sketch.parameters())
        plain = is_plain(sketch)
        kind = _kind(sketch) if plain else (type(sketch).__name__, anatomy.layout)
        kinds[kind].append((parameters, name))
    for models in kinds.values():
        parameters, name = min(models)
        for fault in filter(None, _faults_of(name, parameters)):
            faults[name] = fault
    assert faults == {}
    assert {name.rpartition("_")[2] for name in refused} == {"enc"}  # encoders without a pooling


@pytest.mark.parametrize(
    ("name", "patch", "prefix"),
    [
        ("vit_tiny_r_s16_p8_224", 32, 1),
        ("vit_small_r26_s32_224", 32, 1),
        ("vit_small_resnet50d_s16_224", 16, 1),
        ("vitamin_small_224", 16, 0),
        ("vit_base_mci_224", 16, 1),
        ("xcit_nano_12_p16_224", 16, 1),
        ("cait_xxs24_224", 16, 1),
        ("vit_base_patch16_sapiens2", 16, 9),
        ("vit_small_patch14_reg4_dinov2", 14, 5),
    ],
)
def test_patches_are_what_becomes_a_token(name: str, patch: int, prefix: int) -> None:
    """A hybrid's patch is a cell of its convolution's map, whatever timm calls its patch size."""
    anatomy = examine(sketch_of(name), name, None)
    assert (anatomy.patch_size, anatomy.prefix_tokens, anatomy.layout) == (patch, prefix, "tokens")


def test_a_hybrid_has_gradients_and_patches() -> None:
    """A residual network before a class-token transformer, at a size of its true patches."""
    extracted("vit_tiny_r_s16_p8_224", 64, ("embeddings", "kl", "patches"))


@pytest.mark.slow
def test_a_gradient_without_a_default_target_asks_for_one() -> None:
    """Where attention and perceptron share their last layer, embeddings need none to be named."""
    name = "vit_dpwee_patch16_reg1_gap_256"
    sketch = sketch_of(name)
    assert default_target(sketch, examine(sketch, name, None)) is None
    extracted(name, 32, ["embeddings", "patches"])
    with pytest.raises(UsageError, match="no layer to differentiate") as caught:
        extracted(name, 32, ["kl"])
    assert "--target-layer" in str(caught.value)
    extracted(name, 32, ["kl"], target_layer="blocks.11.out_proj")


def test_batch_norms_before_the_blocks_run_in_the_trunks_precision() -> None:
    """XCiT's patch embedding has running statistics, which follow its weights' type."""
    extracted("xcit_nano_12_p16_224", 64, ("embeddings", "kl", "patches"), dtype="bfloat16")


def test_maps_of_channels_have_no_patches() -> None:
    """SAM's tokens are refused before a store is made, its embeddings and gradients are not."""
    assert examine(sketch_of("samvit_base_patch16_224"), "", None).layout is None


def test_an_oblong_model_takes_squares_when_told_to() -> None:
    """Sapiens is trained on 1024 x 768 pixels: the error names the size that works."""
    with pytest.raises(UsageError, match="not square") as caught:
        extracted("vit_base_patch16_sapiens2", None, ["embeddings"])
    assert "--image-size 768" in str(caught.value)
