"""Adapters against their papers' equations, read once more in plain products of matrices."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fungistore.backbones.adapters.adapter import (
    Adapter,
    load_trained,
    trained_state,
)
from fungistore.backbones.adapters.adaptformer import AdaptFormer
from fungistore.backbones.adapters.lora import LoRA
from fungistore.backbones.adapters.registry import ADAPTERS
from fungistore.backbones.adapters.ssf import SSF
from fungistore.backbones.adapters.vpt import VPT
from fungistore.errors import UsageError
from fungistore.randomness import Stream

HEADS, DEPTH, PATCH = 4, 3, 8
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dinov2": {"init_values": 0.3, "reg_tokens": 2},
    "clip": {"pre_norm": True, "init_values": 0.3},
    "siglip": {"class_token": False, "global_pool": "avg", "qkv_bias": False},
}
METHODS: dict[str, Adapter] = {
    "deep": VPT(prompts=3),
    "shallow": VPT(prompts=3, depth="shallow"),
    "ssf": SSF(),
    "adaptformer": AdaptFormer(width=5, scale=0.7),
    "lora": LoRA(rank=2, alpha=6.0),
}


def tiny(kind: str, seed: int = 0) -> Any:
    """A vision transformer of random weights, 32 wide, of images of 32 pixels."""
    torch.manual_seed(seed)
    sizes = {"img_size": 32, "patch_size": PATCH, "embed_dim": 32, "depth": DEPTH}
    model = VisionTransformer(**sizes, num_heads=HEADS, num_classes=0, **KINDS[kind])
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def attached(kind: str, adapter: Adapter) -> Any:
    """Such a model with an adapter that was trained, as if."""
    model = tiny(kind)
    adapter.attach(model, seed=1)
    for tensor in trained_state(model).values():
        tensor.data += 0.2 * torch.randn_like(tensor)
    return model


class Reading:
    """A vision transformer, and what five papers add to it, as equations; float64.

    What a paper adds is there where its parameters are.
    """

    def __init__(self, model: Any, adapter: Adapter) -> None:
        self.weights = {name: value.double() for name, value in model.state_dict().items()}
        self.adapter: Any = adapter
        self.prefix = model.num_prefix_tokens

    def __call__(self, pixels: Tensor) -> Tensor:
        """The tokens behind the last norm, but for prompts."""
        get, rows = self.weights.get, pixels.double()
        cells = rows.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
        patches = cells.flatten(3) @ self.weights["patch_embed.proj.weight"].flatten(1).T
        tokens = (patches + get("patch_embed.proj.bias", 0)).flatten(1, 2)
        tokens = self.scaled("patch_embed.proj", tokens)
        first = [get("cls_token"), get("reg_token")]
        known = [one.expand(len(rows), -1, -1) for one in first if one is not None]
        tokens = torch.cat([*known, tokens], 1) + self.weights["pos_embed"]
        if "norm_pre.weight" in self.weights:
            tokens = self.norm("norm_pre", tokens)
        for block in range(DEPTH):
            tokens = self.block(f"blocks.{block}", tokens, prompts=self.prompts(block))
        if self.weights.keys() & {"blocks.0.prompts.tokens"}:
            tokens = torch.cat([tokens[:, : self.prefix], tokens[:, -16:]], 1)
        return self.norm("norm", tokens) if "norm.weight" in self.weights else tokens

    def prompts(self, block: int) -> Tensor | None:
        return self.weights.get(f"blocks.{block}.prompts.tokens")

    def block(self, name: str, tokens: Tensor, *, prompts: Tensor | None) -> Tensor:
        if prompts is not None:  # VPT, eq. 4 and 5: [x, P, E]
            mine = prompts.expand(len(tokens), -1, -1)
            tokens = torch.cat([tokens[:, : self.prefix], mine, tokens[:, -16:]], 1)
        scale = (self.weights.get(f"{name}.ls1.gamma", 1), self.layer_scale(name))
        tokens = tokens + scale[0] * self.attention(name, self.norm(f"{name}.norm1", tokens))
        entering = self.norm(f"{name}.norm2", tokens)
        hidden = torch.nn.functional.gelu(self.linear(f"{name}.mlp.fc1", entering))
        added = scale[1] * self.linear(f"{name}.mlp.fc2", hidden)
        if f"{name}.mlp.adaptformer.up" in self.weights:  # AdaptFormer, eq. 3 and 4
            own = {p: self.weights[f"{name}.mlp.adaptformer.{p}"] for p in PARTS}
            low = (entering @ own["down"].T + own["down_bias"]).clamp_min(0)
            added = added + self.adapter.scale * (low @ own["up"].T + own["up_bias"])
        return tokens + added

    def layer_scale(self, name: str) -> Any:
        beside = self.weights.get(f"{name}.mlp.adaptformer.layer_scale.gamma", 1)
        return self.weights.get(f"{name}.ls2.gamma", beside)

    def attention(self, name: str, tokens: Tensor) -> Tensor:
        n, t, d = tokens.shape
        qkv = self.linear(f"{name}.attn.qkv", tokens).reshape(n, t, 3, HEADS, d // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT / (d // HEADS) ** 0.5).softmax(-1)
        return self.linear(f"{name}.attn.proj", (scores @ v).transpose(1, 2).reshape(n, t, d))

    def linear(self, name: str, tokens: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        if f"{name}.lora.down" in self.weights:  # LoRA, section 4.1: W + alpha / r B A
            a, b = self.weights[f"{name}.lora.down"], self.weights[f"{name}.lora.up"]
            weight = weight + self.adapter.alpha / self.adapter.rank * b @ a
        return self.scaled(name, tokens @ weight.T + self.weights.get(f"{name}.bias", 0))

    def norm(self, name: str, tokens: Tensor) -> Tensor:
        centred = tokens - tokens.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return self.scaled(name, unit * weight + bias)

    def scaled(self, name: str, values: Tensor) -> Tensor:
        if f"{name}.ssf.scale" in self.weights:  # SSF, eq. 5
            return values * self.weights[f"{name}.ssf.scale"] + self.weights[f"{name}.ssf.shift"]
        return values


PARTS = ("down", "down_bias", "up", "up_bias")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_is_what_its_paper_says(method: str, kind: str) -> None:
    """Tokens equal an independent reading to 1e-9 in float64; prompts are not among them."""
    adapter = METHODS[method]
    model = attached(kind, adapter).double()
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = model.forward_features(pixels)
    assert tokens.shape == (2, 16 + model.num_prefix_tokens, 32)
    torch.testing.assert_close(tokens, Reading(model, adapter)(pixels), rtol=1e-9, atol=1e-9)
    bare = tiny(kind).double().forward_features(pixels)
    assert (tokens - bare).abs().max() > 0.1


def count(adapter: Adapter) -> int:
    """Trained numbers of an adapter on ViT-B/16, without a classifier."""
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=0)
        adapter.attach(model, seed=0)
    return sum(tensor.numel() for tensor in trained_state(model).values())


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (VPT(prompts=50, depth="shallow"), 50 * 768),
        (VPT(prompts=10), 12 * 10 * 768),
        (SSF(), 205_824),  # 0.205 M, as published
        (AdaptFormer(width=64), 12 * (2 * 768 * 64 + 64 + 768)),  # 1.19 M, as published
        (LoRA(rank=8), 12 * 8 * (768 + 2304 + 768 + 768)),
        (ADAPTERS["linear"](), 0),
        (ADAPTERS["full"](), 85_798_656),
    ],
    ids=["vpt-shallow", "vpt-deep", "ssf", "adaptformer", "lora", "linear", "full"],
)
def test_as_many_numbers_are_trained_as_was_published(adapter: Adapter, expected: int) -> None:
    """Of ViT-B/16: 0.205 M for SSF, 1.19 M for AdaptFormer-64, p rows a prompted block for VPT."""
    assert count(adapter) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["ssf", "adaptformer", "lora"])
def test_an_adapter_begins_without_an_effect(method: str, kind: str) -> None:
    """Freshly attached, and merged, it gives the very bits of the model's own features."""
    pixels = torch.randn(2, 3, 32, 32)
    model = tiny(kind)
    before = model(pixels)
    METHODS[method].attach(model, seed=1)
    assert torch.equal(model(pixels), before)
    METHODS[method].merge(model)
    assert torch.equal(model(pixels), before)


def test_prompts_of_zeros_are_not_without_an_effect() -> None:
    """Attention looks at them too: a softmax has more terms."""
    model, pixels = tiny("plain"), torch.randn(2, 3, 32, 32)
    before = model(pixels)
    VPT(prompts=4).attach(model, seed=1)
    for tensor in trained_state(model).values():
        tensor.data.zero_()
    assert (model(pixels) - before).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["ssf", "lora"])
def test_merged_equals_unmerged(method: str, kind: str) -> None:
    """To 1e-5 in float32; the model is one of plain layers again."""
    model, pixels = attached(kind, METHODS[method]), torch.randn(2, 3, 32, 32)
    before = model(pixels)
    METHODS[method].merge(model)
    torch.testing.assert_close(model(pixels), before, rtol=1e-5, atol=1e-5)
    assert trained_state(model) == {}
    assert not any(module._forward_hooks for module in model.modules())


def test_an_rms_norm_keeps_its_shift_beside_it() -> None:
    """It has no bias that a shift could be folded into; linear layers are folded all the same."""
    model = timm.create_model("test_vit4", num_classes=0).eval()
    SSF().attach(model, seed=0)
    for tensor in trained_state(model).values():
        tensor.data += 0.2 * torch.randn_like(tensor)
    pixels = torch.randn(1, 3, *model.patch_embed.img_size)
    before = model(pixels)
    SSF().merge(model)
    torch.testing.assert_close(model(pixels), before, rtol=1e-5, atol=2e-5)
    left = {name.rpartition(".ssf")[0].rpartition(".")[2] for name in trained_state(model)}
    assert left >= {"norm1", "norm2"}
    assert not left & {"qkv", "proj", "fc1", "fc2"}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_drawn_comes_from_the_seed_alone(method: str) -> None:
    """Twice the same, another seed others, and torch's own generator is left as it was."""
    states = []
    for seed in (1, 1, 2):
        model = tiny("plain")
        generator = torch.get_rng_state()
        METHODS[method].attach(model, seed=seed)
        assert torch.equal(torch.get_rng_state(), generator)
        states.append({n: t.detach().clone() for n, t in trained_state(model).items()})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    is_other = any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert is_other == (method != "ssf")


def test_prompts_are_drawn_by_xaviers_rule() -> None:
    """Uniform up to the root of 6 / (3 x patch x patch + d), as VPT's code has it."""
    model = tiny("plain")
    VPT(prompts=200, depth="shallow").attach(model, seed=0)
    (tokens,) = trained_state(model).values()
    bound = (6 / (3 * PATCH**2 + 32)) ** 0.5
    assert 0.98 * bound < float(tokens.detach().abs().max()) < bound
    drawn = Stream(0, "adapter", "vpt", "0").uniform(200, 32) * 2 - 1
    torch.testing.assert_close(tokens.detach(), torch.from_numpy(drawn * bound).float())


def test_prompts_drop_out_in_training_alone() -> None:
    """Each sample's own, and never in evaluation."""
    model, pixels = tiny("plain"), torch.randn(1, 3, 32, 32)
    VPT(prompts=3, dropout=0.5).attach(model, seed=0)
    assert torch.equal(model(pixels), model(pixels))
    model.train()
    twice = model(pixels.expand(2, -1, -1, -1))
    assert not torch.equal(twice[0], twice[1])


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("method", ["full", "linear"])
def test_full_and_linear_take_any_model(method: str, name: str) -> None:
    """What was trained is put back whole, running statistics of batch norms included."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    pixels = torch.randn(2, 3, 160, 160)
    ADAPTERS[method]().attach(model, seed=0)
    if method == "full":
        model.train()(pixels).sum().backward()
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.sign(parameter.grad)
    kept = {name: tensor.detach().clone() for name, tensor in trained_state(model).items()}
    torch.manual_seed(0)
    other = timm.create_model(name, num_classes=0)
    ADAPTERS[method]().attach(other, seed=5)
    load_trained(other, kept)
    assert torch.equal(other.eval()(pixels), model.eval()(pixels))
    assert bool(kept) == (method == "full")


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_small_patch16_dinov3", "swin_tiny_patch4_window7_224",
             "vit_base_patch16_rpn_224"]
)  # fmt: skip
def test_other_models_are_refused(name: str) -> None:
    """The error names the methods that take them."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    for adapter in METHODS.values():
        with pytest.raises(UsageError, match="not for this model") as caught:
            adapter.attach(model, seed=0)
        assert "--method full" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vpt", {"prompts": 0}),
        ("vpt", {"depth": "wide"}),
        ("vpt", {"dropout": 1.0}),
        ("adaptformer", {"width": 0}),
        ("adaptformer", {"scale": float("nan")}),
        ("lora", {"rank": 0}),
        ("lora", {"alpha": float("inf")}),
    ],
)
def test_unusable_settings_are_refused(name: str, settings: dict[str, Any]) -> None:
    """By the field's name."""
    with pytest.raises(UsageError) as caught:
        ADAPTERS[name](**settings)
    assert str(caught.value.where) == f"{name}.{next(iter(settings))}"


def test_other_tensors_are_not_put_in() -> None:
    """Missing, unknown, or of another shape: nothing is changed."""
    model = tiny("plain")
    LoRA(rank=2).attach(model, seed=0)
    kept = {name: tensor.detach().clone() for name, tensor in trained_state(model).items()}
    name = next(iter(kept))
    for wrong in (
        {n: t for n, t in kept.items() if n != name},
        kept | {"blocks.0.more": torch.zeros(1)},
        kept | {name: torch.zeros(3, 32)},
    ):
        with pytest.raises(ValueError, match="1 tensor missing, unknown or of another shape"):
            load_trained(model, wrong)
    assert all(torch.equal(kept[n], t) for n, t in trained_state(model).items())


def test_gradients_reach_all_of_an_adapter_and_nothing_else() -> None:
    """But for what is behind a zero: Down and A, whose gradients come with the second step."""
    for method, adapter in METHODS.items():
        model = attached("dinov2", adapter)
        model.forward_features(torch.randn(2, 3, 32, 32)).square().sum().backward()
        with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
        assert with_gradient == trained_state(model).keys(), method
