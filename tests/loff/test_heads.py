"""Heads against timm's own models: parameters, forward, initial weights; and that they learn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fungistore.errors import FungiError, UsageError
from fungistore.loff.heads import ENCODERS, HEADS, HeadSpec, Standardise, build_head

GRID = (4, 4)
PATCH_HEADS = [kind for kind in HEADS if kind != "linear"]


def spec_of(kind: str, **settings: object) -> HeadSpec:
    grid = None if kind == "linear" else GRID
    return replace(HeadSpec(kind, in_dim=24, classes=5, grid=grid), **settings)


def features_of(kind: str, count: int, seed: int = 0) -> Tensor:
    shape = (count, 24) if kind == "linear" else (count, *GRID, 24)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("kind", ["deit-s", "deit-ti"])
def test_blocks_are_those_of_timms_deit(kind: str) -> None:
    """The same parameters in blocks, final norm, class token and positions of a 14 x 14 grid."""
    reference = timm.create_model(ENCODERS[kind].timm, num_classes=7)
    head = build_head(HeadSpec(kind, in_dim=100, classes=7, grid=(14, 14)), seed=0)
    theirs = {name: value.shape for name, value in reference.named_parameters()}
    ours = {name: value.shape for name, value in head.named_parameters()}
    for name, shape in theirs.items():
        if not name.startswith(("patch_embed.", "head.")):
            assert ours[name] == shape
    assert count_parameters(head.blocks) == count_parameters(reference.blocks)
    width = ENCODERS[kind].width
    extra = count_parameters(head) - count_parameters(reference)
    patchify = 3 * 16 * 16 * width + width
    assert extra == 100 * width + width + 2 * width - patchify


def test_deit_s_has_the_papers_size() -> None:
    """About 21.5 million parameters on 768-wide tokens; vit-xs is a third of deit-ti."""
    sizes = {
        kind: count_parameters(
            build_head(HeadSpec(kind, in_dim=768, classes=10, grid=(16, 16)), seed=0)
        )
        for kind in ENCODERS
    }
    assert 21_300_000 < sizes["deit-s"] < 22_000_000
    assert 5_300_000 < sizes["deit-ti"] < 5_700_000
    assert 1_800_000 < sizes["vit-xs"] < 2_100_000


@pytest.mark.parametrize("kind", ["attn-pool", "vit-xs"])
def test_attention_of_one_query_is_timms(kind: str) -> None:
    """Its token, and the gradients of tokens and of every parameter, in double precision."""
    head = build_head(spec_of(kind), seed=0).eval().double()
    layer = head.pool if kind == "attn-pool" else head.blocks[-1]
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    width = 384 if kind == "attn-pool" else 192
    tokens = torch.randn(3, 16, width, dtype=torch.float64, requires_grad=True)
    inputs = [tokens, *layer.parameters()]
    weights = torch.randn(3, width, dtype=torch.float64)
    (theirs_of,) = (base for base in type(layer).__bases__)
    ours = layer(tokens).reshape(3, width)
    theirs = theirs_of.forward(layer, tokens).reshape(3, -1, width)[:, 0]
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.fixture(scope="module")
def tiny_deit() -> nn.Module:
    """timm's DeiT-Ti with random weights, norms and biases included, on a 3 x 3 grid."""
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", img_size=48, num_classes=0).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def tiny_deit_file(tiny_deit: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("init") / "deit_tiny.safetensors"
    save_file(tiny_deit.state_dict(), path)
    return path


def test_a_head_with_timms_weights_is_timms_transformer(
    tiny_deit: nn.Module, tiny_deit_file: Path
) -> None:
    """Given the same embedded cells, class token, positions, blocks and norm do as timm's do."""
    spec = HeadSpec("deit-ti", in_dim=192, classes=192, grid=(3, 3), init=str(tiny_deit_file))
    head = build_head(spec, seed=0).eval()
    head.embed, head.classifier.weight.data = nn.Identity(), torch.eye(192)
    cells = torch.randn(2, 3, 3, 192)
    with torch.no_grad():
        expected = tiny_deit.norm(tiny_deit.blocks(tiny_deit._pos_embed(cells.flatten(1, 2))))
        assert torch.allclose(head(cells), expected[:, 0], atol=1e-4)


def test_initial_positions_are_resampled_and_further_blocks_left_out(
    tiny_deit: nn.Module, tiny_deit_file: Path
) -> None:
    """vit-xs on another grid takes the first four blocks, and positions as timm resizes them."""
    from timm.layers import resample_abs_pos_embed

    spec = HeadSpec("vit-xs", in_dim=24, classes=5, grid=(4, 6), init=str(tiny_deit_file))
    head = build_head(spec, seed=0)
    expected = resample_abs_pos_embed(tiny_deit.pos_embed.data, [4, 6], [3, 3])
    assert torch.equal(head.pos_embed.data, expected)
    assert torch.equal(head.blocks[3].mlp.fc1.weight, tiny_deit.blocks[3].mlp.fc1.weight)
    assert torch.equal(head.norm.bias, tiny_deit.norm.bias)
    fresh = build_head(replace(spec, init="random"), seed=0)
    assert torch.equal(head.embed[0].weight, fresh.embed[0].weight)


def test_weights_that_do_not_fit_are_refused_with_what_is_wrong(
    tiny_deit_file: Path, tmp_path: Path
) -> None:
    """Another width, missing blocks, a missing file, a file that is none."""
    with pytest.raises(UsageError) as error:
        build_head(spec_of("deit-s", init=str(tiny_deit_file)), seed=0)
    assert "cls_token (1, 1, 192)" in str(error.value)
    save_file({"cls_token": torch.zeros(1, 1, 192)}, tmp_path / "part.safetensors")
    with pytest.raises(UsageError, match="no pos_embed"):
        build_head(spec_of("deit-ti", init=str(tmp_path / "part.safetensors")), seed=0)
    state = {"pos_embed": torch.zeros(1, 8, 192)}
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(UsageError, match=r"pos_embed \(1, 8, 192\)"):
        build_head(spec_of("deit-ti", init=str(tmp_path / "odd.safetensors")), seed=0)
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("text.safetensors", "none.safetensors"):
        with pytest.raises(UsageError, match="cannot be read"):
            build_head(spec_of("deit-ti", init=str(tmp_path / name)), seed=0)


def test_timms_weights_out_of_reach_are_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the hub, --init timm names the other ways."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FungiError, match="weights cannot be had") as error:
        build_head(spec_of("vit-xs", init="timm"), seed=0)
    assert "--init random" in str(error.value)


@pytest.mark.parametrize("kind", HEADS)
def test_initial_weights_depend_on_the_seed_alone(kind: str) -> None:
    """Equal seeds give equal bits, others not, and torch's random state is neither read nor set."""

    def weights(seed: int) -> Mapping[str, Tensor]:
        return build_head(spec_of(kind), seed=seed).state_dict()

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(torch.equal(value, first[name]) for name, value in weights(3).items())
    assert not torch.equal(weights(4)["classifier.weight"], first["classifier.weight"])
    assert all(torch.isfinite(value).all() for value in first.values())


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_sample_does_not_depend_on_its_batch(kind: str, dtype: torch.dtype) -> None:
    """Logits [b, classes] in float32 from features of any type, one by one as together."""
    head = build_head(spec_of(kind), seed=0).eval()
    features = features_of(kind, 6).to(dtype)
    with torch.no_grad():
        logits = head(features)
        assert logits.shape == (6, 5)
        assert logits.dtype == torch.float32
        alone = torch.cat([head(one) for one in features.split(1)])
    assert torch.allclose(logits, alone, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [pytest.param(one, marks=[pytest.mark.slow] * (one == "deit-s")) for one in HEADS]
)
def test_every_head_can_learn_thirty_two_samples_by_heart(kind: str) -> None:
    """A few steps of AdamW on random features and labels."""
    steps, rate = {"linear": (100, 3e-2), "deit-s": (13, 5e-4)}.get(kind, (20, 1e-3))
    grid = None if kind == "linear" else (2, 2)
    head = build_head(spec_of(kind, grid=grid, drop_path=0.0), seed=0).train()
    features = features_of(kind, 32)
    features = features if grid is None else features[:, :2, :2]
    labels = torch.randint(5, (32,), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, fused=True)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(head(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert (head.eval()(features).argmax(dim=1) == labels).float().mean() > 0.95


def test_standardising_undoes_any_scale_of_the_channels() -> None:
    """With the moments of scaled features, a head says what it says of unscaled ones."""
    spec = spec_of("attn-pool")
    features = features_of("attn-pool", 64)
    scale, offset = torch.logspace(-2, 3, 24), torch.linspace(-50, 50, 24)
    head = build_head(spec, seed=0).eval()
    with torch.no_grad():
        expected = head(features)
        head.standardise.set_moments(offset, scale)
        assert torch.allclose(head(features * scale + offset), expected, atol=1e-2)
        assert torch.allclose(head.classify(features), expected, atol=1e-6)
        assert "standardise.mean" in head.state_dict()
        plain = build_head(replace(spec, standardise=False), seed=0).eval()
        assert torch.equal(plain(features), expected)
        assert "standardise.mean" not in plain.state_dict()


def test_a_channel_that_never_varies_is_only_centred() -> None:
    """No division by zero."""
    standardise = Standardise(3)
    standardise.set_moments(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.0, 1e-9]))
    found = standardise(torch.tensor([[3.0, 2.0, 3.5]], dtype=torch.float16))
    assert found.dtype == torch.float16
    assert found.tolist() == [[1.0, 0.0, 0.5]]


def test_blocks_are_skipped_in_training_only_and_more_often_at_the_end() -> None:
    """drop_path grows linearly over the blocks, from none."""
    head = build_head(spec_of("vit-xs", drop_path=0.3), seed=0)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in head.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    features = features_of("vit-xs", 32)
    with torch.no_grad():
        assert not torch.equal(head.train()(features), head(features))
        assert torch.equal(head.eval()(features), head(features))


@pytest.mark.parametrize("kind", PATCH_HEADS)
def test_positions_and_class_token_are_kept_from_weight_decay(kind: str) -> None:
    """Every parameter of two or more dimensions that is no matrix is named."""
    head = build_head(spec_of(kind), seed=0)
    names = {name for name, value in head.named_parameters() if value.ndim == 3}
    assert names == head.no_weight_decay() & dict(head.named_parameters()).keys() | (
        {"pool.latent"} if kind == "attn-pool" else set()
    )


@pytest.mark.parametrize("kind", HEADS)
def test_a_specification_goes_through_json(kind: str) -> None:
    """What is written is read back equal, tuples included."""
    spec = spec_of(kind, dropout=0.1, standardise=False)
    assert HeadSpec.from_config(json.loads(json.dumps(spec.to_config()))) == spec


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("vit", {}, "head.kind"),
        ("deit-s", {"in_dim": 0}, "head.in_dim"),
        ("deit-s", {"classes": 0}, "head.classes"),
        ("deit-s", {"grid": None}, "head.grid"),
        ("attn-pool", {"grid": [0, 4]}, "head.grid"),
        ("attn-pool", {"init": "timm"}, "head.init"),
        ("linear", {"init": "w.safetensors"}, "head.init"),
        ("deit-ti", {"init": "weights.pth"}, "head.init"),
        ("deit-ti", {"drop_path": 1.0}, "head.drop_path"),
        ("deit-ti", {"dropout": -0.1}, "head.dropout"),
        ("deit-ti", {"grid": "4x4"}, "head.grid"),
        ("deit-ti", {"depth": 3}, "head.depth"),
    ],
)
def test_unusable_settings_are_refused_by_name(
    kind: str, settings: dict[str, object], named: str
) -> None:
    """The error is about usage, and says where."""
    config = {"kind": kind, "in_dim": 24, "classes": 5, "grid": [4, 4]} | settings
    with pytest.raises(UsageError) as error:
        HeadSpec.from_config(config)
    assert error.value.where == named


def test_the_linear_baseline_reads_embeddings_and_the_others_patches() -> None:
    """A head says which array of the store it is for."""
    assert {kind: spec_of(kind).reads for kind in HEADS} == {
        **dict.fromkeys(PATCH_HEADS, "patches"),
        "linear": "embeddings",
    }
