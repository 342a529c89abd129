"""Models that are no plain vision transformers: embeddings, maps, and gradients of any layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import Tensor, nn

from fungistore.backbones.timm_vit import loading
from fungistore.backbones.timm_vit.anatomy import examine
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.backbones.timm_vit.layout import layout_of
from fungistore.backbones.timm_vit.loading import load_timm_vit
from fungistore.errors import UsageError
from fungistore.gradients.general import LayerPath
from fungistore.gradients.layers import gradient_shape
from fungistore.gradients.path import gradient_path
from fungistore.objectives.dino import DINO
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import ViewOutputs
from fungistore.objectives.simclr import SimCLR

SMALL = ["test_resnet", "test_convnext", "test_efficientnet", "test_nfnet"]


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TimmViT]:
    """Load a model as a user does, with seeded random weights in place of timm's hub."""

    def weights(sketch: Any, name: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = timm.create_model(name.partition(".")[0], num_classes=0)
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.data += 0.3 * torch.randn_like(parameter)
            elif "weight" in key:
                parameter.data *= 2
        return dict(model.state_dict())

    monkeypatch.setattr(loading, "download_weights", weights)
    return load_timm_vit


@pytest.mark.parametrize("name", SMALL)
def test_the_embedding_is_timms(name: str, seeded: Callable[..., TimmViT]) -> None:
    """Bit for bit that of a model without its classifier, and the map is what it pools."""
    encoder = seeded(name)
    pixels = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    made = encoder.run((pixels,))
    assert torch.equal(made.embeddings, encoder.module(pixels))
    assert made.embeddings.shape == (2, encoder.embedding_dim)
    assert made.grid is not None
    assert made.grid.tokens.shape == (2, *encoder.token_shape, encoder.token_dim)
    assert (encoder.target, encoder.target_layer) == (None, None)
    assert len(encoder.candidates) == 3


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (SimpleNamespace(num_features=8), (1, 8, 3, 3), ("channels first", 3, 3, 0)),
        (SimpleNamespace(num_features=8), (1, 3, 3, 8), ("channels last", 3, 3, 0)),
        (
            SimpleNamespace(num_features=8, output_fmt="NHWC"),
            (1, 8, 8, 8),
            ("channels last", 8, 8, 0),
        ),
        (SimpleNamespace(num_features=8), (1, 8, 8, 8), ("channels first", 8, 8, 0)),
        (SimpleNamespace(num_features=9), (1, 3, 3, 8), ("channels last", 3, 3, 0)),
        (SimpleNamespace(num_features=8), (1, 50, 8), ("tokens", 7, 7, 1)),
        (SimpleNamespace(num_features=8), (1, 49, 8), ("tokens", 7, 7, 0)),
        (SimpleNamespace(num_features=8, num_prefix_tokens=5), (1, 54, 8), ("tokens", 7, 7, 5)),
        (SimpleNamespace(num_features=8), (1, 1, 8), (None, 0, 0, 0)),
        (SimpleNamespace(num_features=8), (1, 48, 8), (None, 0, 0, 0)),
        (SimpleNamespace(num_features=8), (1, 8), (None, 0, 0, 0)),
    ],
)  # fmt: skip
def test_a_map_is_told_from_its_width(
    model: SimpleNamespace, shape: tuple[int, ...], expected: tuple[object, ...]
) -> None:
    """Channels first and channels last are not mixed up, nor a class token with a place."""
    assert layout_of(model, torch.zeros(shape)) == expected


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224", "hiera_tiny_224"])
def test_a_cell_is_where_the_image_has_it(name: str, seeded: Callable[..., TimmViT]) -> None:
    """What changes in one corner of an image changes most in that corner of the grid."""
    encoder = seeded(name)
    side, part = encoder.image_size, encoder.image_size // 4
    pixels = torch.randn(1, 3, side, side)
    changed = pixels.clone()
    changed[..., :part, side - part :] += 3 * torch.randn(1, 3, part, part)
    with torch.no_grad():
        before, after = (encoder.run((one,)).grid for one in (pixels, changed))
    assert before is not None
    assert after is not None
    moved = (after.tokens - before.tokens)[0].norm(dim=-1)
    row, column = divmod(int(moved.argmax()), moved.shape[1])
    assert row < moved.shape[0] / 2 <= column


class Net(nn.Module):
    """A layer between two nonlinearities, of which the second works in place."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.layer = layer
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(8, 16, 3)

    def forward_features(self, pixels: Tensor) -> Tensor:
        entered = torch.tanh(self.first(pixels))
        output = self.act(self.layer(entered))
        return self.last(output)

    def forward_head(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(pixels))


class OnChannelsLast(nn.Module):
    """A linear layer over maps whose channels come last."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.linear(pixels.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def encoder_of(module: nn.Module, target: str) -> TimmViT:
    """An encoder of any module, for the gradient paths alone."""
    return TimmViT(
        name="net", module=module.eval().requires_grad_(False), image_size=16, patch_size=1,
        embedding_dim=16, token_dim=16, prefix_tokens=0, pooling="avg", target_layer=target,
        data_config=resolve_data_config(pretrained_cfg={"input_size": (3, 16, 16)}),
        weights_hash="",
        layout="channels first", is_plain=False,
    )  # fmt: skip


LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "plain": (lambda: nn.Conv2d(8, 8, 3), "layer"),
    "pointwise": (lambda: nn.Conv2d(8, 8, 1, bias=False), "layer"),
    "groups, stride, dilation": (
        lambda: nn.Conv2d(8, 8, (3, 2), stride=(2, 1), dilation=2, groups=2, padding=2), "layer"),
    "depthwise": (lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8), "layer"),
    "same": (lambda: nn.Conv2d(8, 8, (3, 5), dilation=2, padding="same"), "layer"),
    "reflect": (lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), "layer"),
    "circular": (lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), "layer"),
    "TensorFlow's": (lambda: Conv2dSame(8, 8, 3, stride=2), "layer"),
    "standardised": (lambda: StdConv2d(8, 8, 3, padding=1), "layer"),
    "scaled": (lambda: ScaledStdConv2d(8, 8, 3, padding=1), "layer"),
    "channels last": (OnChannelsLast, "layer.linear"),
}  # fmt: skip


@pytest.mark.parametrize("objective", [KL(), DINO(global_crops=2, local_crops=1), SimCLR()])
@pytest.mark.parametrize("kind", LAYERS)
def test_any_layer_agrees_with_autograd(kind: str, objective: KL | DINO | SimCLR) -> None:
    """A sample's gradient is what backward gives of that sample alone, in float64."""
    torch.manual_seed(0)
    make, target = LAYERS[kind]
    encoder = encoder_of(Net(make()), target)
    views = 1 if isinstance(objective, KL) else 3
    pixels = torch.randn(2, views, 3, 16, 16) + torch.randn(2, views, 3, 1, 1)
    heads = {name: nn.Linear(16, d) for name, d in objective.needs.heads.items()}
    bank = torch.randn(5, 96) if isinstance(objective, SimCLR) else None
    layer = encoder.target
    assert layer is not None
    tape = LayerPath(encoder).record([(chunk,) for chunk in pixels.split(2, dim=1)])
    ours = tape.gradients(objective.losses(ViewOutputs(tape.embeddings), heads, bank))
    assert ours.shape == (2, *gradient_shape(layer))

    exact = encoder.module.double()
    layer.requires_grad_()
    doubled = {name: head.double() for name, head in heads.items()}
    bank = None if bank is None else bank.double()
    for image, row in zip(pixels.double(), ours, strict=True):
        encoder.module.zero_grad()
        embeddings = torch.cat([exact(chunk) for chunk in image.split(2)])[None]
        objective.losses(ViewOutputs(embeddings), doubled, bank).sum().backward()
        parts = [one.grad for one in (layer.weight, layer.bias) if one is not None]
        expected = torch.cat([one.reshape(len(one), -1) for one in parts if one is not None], 1)
        assert float((row - expected).norm() / expected.norm()) < 2e-4


def test_a_layer_that_the_embedding_does_not_need_is_refused() -> None:
    """Instead of an error of autograd's."""

    class Idle(Net):
        def forward_features(self, pixels: Tensor) -> Tensor:
            self.layer(torch.tanh(self.first(pixels)))
            return self.last(self.first(pixels))

    path = LayerPath(encoder_of(Idle(nn.Conv2d(8, 8, 1)), "layer"))
    with pytest.raises(UsageError, match="does not depend on the target layer"):
        path.record([(torch.randn(1, 1, 3, 16, 16),)])


def test_a_named_convolution_of_a_model_is_its_target(seeded: Callable[..., TimmViT]) -> None:
    """And one that does not exist, or runs inside another's code, is refused by name."""
    encoder = seeded("test_resnet", target_layer="layer4.0.conv2", image_size=64)
    assert isinstance(encoder.target, nn.Conv2d)
    pixels = torch.randn(2, 1, 3, 64, 64)
    tape = gradient_path(encoder).record([(pixels,)])
    gradients = tape.gradients(tape.embeddings.square().sum((1, 2)))
    assert gradients.shape[1:] == gradient_path(encoder).gradient_shapes[0]
    assert gradients.abs().amax((1, 2)).min() > 0
    with pytest.raises(UsageError, match="linear layer or convolution of the model"):
        seeded("test_resnet", target_layer="layer4.0.bn2")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("swin_tiny_patch4_window7_224", "layers.3.blocks.1.attn.proj"),
        ("hiera_tiny_224", "blocks.11.attn.proj"),
        ("levit_128s", "stages.2.blocks.3.attn.proj.ln.linear"),
        ("mobilevit_xxs", None),
        ("convnext_atto", None),
        ("pit_ti_224", "transformers.2.blocks.3.attn.proj"),
    ],
)
def test_the_papers_layer_is_taken_where_there_is_one(name: str, target: str | None) -> None:
    """The last block's attention output projection; None where convolutions come behind it."""
    with torch.device("meta"):
        sketch = timm.create_model(name, num_classes=0)
    assert loading.default_target(sketch, examine(sketch, name, None)) == target


@pytest.mark.parametrize(
    "options", [{"image_size": 48}, {"image_size": 90}, {"view_size": "native"}, {"view_size": 50}]
)
def test_a_convolutional_model_takes_any_size(
    options: dict[str, Any], seeded: Callable[..., TimmViT]
) -> None:
    """Also such as its steps do not divide: the map is what timm makes of it."""
    encoder = seeded("test_resnet", **options)
    side = encoder.image_size
    grid = encoder.run((torch.randn(1, 3, side, side),)).grid
    assert grid is not None
    assert tuple(grid.tokens.shape[1:3]) == encoder.token_shape


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("swin_tiny_patch4_window7_224", {"view_size": "native"}, "own size only"),
        ("swin_tiny_patch4_window7_224", {"image_size": 2}, "cannot take images of this size"),
        ("hiera_tiny_224", {"image_size": 100}, "cannot take images of this size"),
        ("qwen3_vit_88m_enc", {}, "gives no embedding"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(
    name: str, options: dict[str, Any], message: str, seeded: Callable[..., TimmViT]
) -> None:
    """Before anything is downloaded."""
    with pytest.raises(Exception, match=message) as caught:
        load_timm_vit(name, **options)
    assert name in str(caught.value)


def test_weights_that_are_made_for_one_size_are_refused_at_another(
    seeded: Callable[..., TimmViT],
) -> None:
    """A Mixer's layers over places cannot be resampled: it is the size that is wrong."""
    with pytest.raises(UsageError, match="images of its own size only") as caught:
        load_timm_vit("mixer_s32_224", image_size=256)
    assert "leave out --image-size" in str(caught.value.hint)
    assert "mlp_tokens" in str(caught.value.found)


def test_eight_bits_are_for_transformers(seeded: Callable[..., TimmViT]) -> None:
    """Any other precision leaves a convolutional model in float32, which is said."""
    encoder = seeded("test_resnet")
    with pytest.raises(UsageError, match="no trunk of eight bits"):
        encoder.prepare_trunk(torch.int8)
    encoder.prepare_trunk(torch.bfloat16, compiled=True)
    assert {p.dtype for p in encoder.module.parameters()} == {torch.float32}
    assert any("float32 throughout" in remark for remark in encoder.remarks)


def test_a_samples_features_do_not_depend_on_its_company(
    seeded: Callable[..., TimmViT],
) -> None:
    """Batch norms use what they learnt, never the batch."""
    encoder = seeded("test_resnet")
    pixels = torch.randn(4, 3, 64, 64)
    alone = torch.cat([encoder.run((one[None],)).embeddings for one in pixels])
    together = encoder.run((pixels,)).embeddings
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_a_file_with_its_classifier_fits(tmp_path: Path, seeded: Callable[..., TimmViT]) -> None:
    """Wherever the family has it; older files know no counters of batch norms."""
    model = timm.create_model("test_efficientnet", num_classes=10)
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "weights.pth")
    encoder = load_timm_vit("test_efficientnet", weights=tmp_path / "weights.pth")
    assert {"classifier.weight", "classifier.bias"} <= set(encoder.left_out)
    pixels = torch.randn(1, 3, encoder.image_size, encoder.image_size)
    model.reset_classifier(0)
    assert torch.equal(encoder.module(pixels), model.eval()(pixels))
