"""Modules passed in, and torchvision's: features against what the libraries themselves give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import models, transforms

import fungistore as fungi
from fungistore.backbones.attention import UnfoldedAttention
from fungistore.backbones.families import load_backbone
from fungistore.backbones.modules.transform import spelled, statistics_of
from fungistore.backbones.torchvision_models.loading import describe, list_names
from fungistore.errors import MismatchError, UsageError
from fungistore.gradients.path import gradient_path
from tiny_world import write_images

STATISTICS = ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
TRANSFORM = transforms.Compose(
    [
        transforms.Resize(32),
        transforms.CenterCrop(32),
        transforms.ToTensor(),
        transforms.Normalize(*STATISTICS),
    ]
)


class Tiny(nn.Module):
    """Patches, one attention-like block, a mean: enough to have a target layer and a map."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patches = nn.Conv2d(3, 6, 8, 8)
            self.attn = nn.Module()
            self.attn.proj = nn.Linear(6, 6)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return a map [n, 6, 4, 4]."""
        tokens = self.patches(pixels).permute(0, 2, 3, 1)
        mixed: torch.Tensor = torch.tanh(self.attn.proj(tokens) + tokens)
        return mixed.permute(0, 3, 1, 2)


def test_a_module_that_is_passed_in_is_a_model(tmp_path: Path) -> None:
    """Extraction, gradients of its layer, and a search by a new image, as of any other model."""
    write_images(tmp_path / "images", 5)
    module = Tiny()
    encoder = fungi.Encoder(module, TRANSFORM, name="tiny-passed")
    features = ("embeddings", "kl", "dino", "patches")
    options = fungi.ExtractOptions(model=encoder.model, features=features, dtype="float32")
    options = options.with_settings("dino.local_crops=1", "dino.head_dim=8")
    done = fungi.extract(tmp_path / "images", tmp_path / "s.fungi", options)
    assert done.failed == 0
    files = sorted((tmp_path / "images").iterdir())
    views = torch.stack([TRANSFORM(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        wanted = module(views)
    store = fungi.Store.open(tmp_path / "s.fungi")
    arrays = store.arrays(done.feature_set)
    np.testing.assert_allclose(
        arrays["embeddings"].read(0, 5), wanted.mean(dim=(2, 3)), atol=2e-3, rtol=2e-3
    )
    np.testing.assert_allclose(
        arrays["patches"].read(0, 5), wanted.permute(0, 2, 3, 1), atol=2e-3, rtol=2e-3
    )
    assert encoder.load(None).target_layer == "attn.proj"
    fungi.build_index(tmp_path / "s.fungi")
    found = fungi.search(tmp_path / "s.fungi", [files[2]])
    assert found.answers[0].neighbours[0].sample.id == files[2].name


def test_a_module_is_known_by_its_weights_and_its_name(tmp_path: Path) -> None:
    """Other weights under one name are refused, by this process and by a store."""
    write_images(tmp_path / "images", 2)
    module = Tiny()
    encoder = fungi.Encoder(module, TRANSFORM, name="tiny-known")
    options = fungi.ExtractOptions(model=encoder.model, features=("embeddings",))
    fungi.extract(tmp_path / "images", tmp_path / "s.fungi", options)
    with pytest.raises(UsageError, match="another module"):
        fungi.Encoder(Tiny(1), TRANSFORM, name="tiny-known")
    with torch.no_grad():
        module.patches.weight.mul_(2)
    write_images(tmp_path / "images", 3)
    with pytest.raises(MismatchError, match=r"backbone\.weights"):
        fungi.extract(tmp_path / "images", tmp_path / "s.fungi", options)
    with pytest.raises(UsageError, match="not at hand"):
        load_backbone("module:nobody-made-it")


@pytest.mark.parametrize(
    ("module", "transform", "settings", "words"),
    [
        (nn.Flatten(), TRANSFORM, {"name": "a b"}, "plain name"),
        (Tiny(), lambda image: image, {"name": "odd"}, "transform does not return"),
        (Tiny(), TRANSFORM, {"name": "odd", "target": "attn.q"}, "such as attn.proj"),
        (Tiny(), TRANSFORM, {"name": "odd", "output": lambda out: [out]}, "returns no embeddings"),
    ],
)
def test_what_cannot_be_used_is_refused(
    module: nn.Module, transform: Any, settings: dict[str, Any], words: str
) -> None:
    """When the encoder is made; nothing is at hand then."""
    with pytest.raises(UsageError, match=words):
        fungi.Encoder(module, transform, **settings)
    name = settings["name"]
    with pytest.raises(UsageError, match="not at hand"):
        load_backbone(f"module:{name}")


def test_views_need_to_know_how_pixels_are_normalised(tmp_path: Path) -> None:
    """A plain function does not say it: embeddings and kl go, dino is refused."""
    write_images(tmp_path / "images", 2)

    def plain(image: Any) -> torch.Tensor:
        return transforms.ToTensor()(image.resize((32, 32)))

    model = fungi.Encoder(Tiny(), plain, name="tiny-plain").model
    options = fungi.ExtractOptions(model=model, features=("embeddings", "kl"))
    assert fungi.extract(tmp_path / "images", tmp_path / "s.fungi", options).failed == 0
    with pytest.raises(UsageError, match="takes no views"):
        fungi.extract(
            tmp_path / "images",
            tmp_path / "d.fungi",
            fungi.ExtractOptions(model=model, features=("dino",)),
        )


def test_transforms_are_read_and_spelled() -> None:
    """Statistics in any depth; no address in memory in a fingerprint."""
    assert statistics_of(transforms.Compose([TRANSFORM])) == STATISTICS
    assert statistics_of(lambda image: image) is None
    assert "0x" not in spelled(transforms.Lambda(lambda image: image))
    config = timm.data.resolve_data_config({}, model=timm.create_model("test_vit"))
    assert statistics_of(timm.data.create_transform(**config)) is not None


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A photograph of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(model: nn.Module, folder: Path) -> Path:
    """Save a model's weights as torchvision's users do."""
    torch.save(model.state_dict(), folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "swin_t"])
def test_embeddings_are_what_enters_the_last_layer(
    name: str, photo: Image.Image, tmp_path: Path
) -> None:
    """Of one of each kind: the classifier, put back, gives the whole model's answer."""
    torch.manual_seed(0)
    theirs = models.get_model(name, weights=None).eval()
    encoder: Any = load_backbone(
        f"torchvision:{name}", weights=saved(theirs, tmp_path), image_size=64
    )
    view = encoder.transform(photo)[None]
    assert view.shape == (1, 3, 64, 64)
    with torch.no_grad():
        encoded = encoder.run((view,))
        logits = theirs(view)
        if name == "squeezenet1_1":
            wanted = theirs.features(view).mean(dim=(2, 3))
            assert torch.allclose(encoded.embeddings, wanted, atol=1e-5)
        else:
            head = getattr(theirs, "fc", None) or getattr(theirs, "head", None)
            last = (head or theirs.classifier[-1])(encoded.embeddings)
            assert torch.allclose(last, logits, atol=1e-4)
    assert (
        encoded.grid.tokens.shape[1:3] == encoder.token_shape == (2, 2) or name == "squeezenet1_1"
    )


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A torchvision ViT-B/32 of two blocks would be smaller; there is none, so of its own size."""
    torch.manual_seed(0)
    model = models.vit_b_32(weights=None, image_size=64).eval()
    nn.init.normal_(model.heads.head.weight, std=0.02)
    return model, saved(model, tmp_path_factory.mktemp("vit"))


@pytest.mark.slow
def test_a_vision_transformer_has_true_and_published_gradients(
    vit: tuple[Any, Path], photo: Image.Image
) -> None:
    """The true one is autograd's; the published one has the normalised tokens in its place."""
    theirs, weights = vit
    last = "encoder.layers.encoder_layer_11.self_attention"
    true: Any = load_backbone("torchvision:vit_b_32", weights=weights, image_size=64)
    published: Any = load_backbone(
        "torchvision:vit_b_32", weights=weights, image_size=64, target_layer=last
    )
    assert true.target_layer == f"{last}.out_proj"
    assert true.identity() == published.identity()
    view = true.transform(photo)[None]
    weights_of = torch.randn(768, generator=torch.Generator().manual_seed(1))
    found = []
    for encoder in (true, published):
        tape = gradient_path(encoder).record([(view[:, None],)])
        found.append(tape.gradients((tape.embeddings * weights_of).sum(dim=(1, 2)))[0])
    theirs.heads = nn.Identity()
    normed: list[torch.Tensor] = []
    block = theirs.encoder.layers[-1]
    block.ln_1.register_forward_hook(lambda _, entered, output: normed.append(output))
    seen: list[torch.Tensor] = []
    block.dropout.register_forward_hook(lambda _, entered, output: seen.append(output))
    with torch.enable_grad():
        theirs.requires_grad_(True)
        embeddings = theirs(view)
        seen[0].retain_grad()
        (embeddings * weights_of).sum().backward()
    layer = block.self_attention.out_proj
    wanted = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1)
    assert torch.allclose(found[0], wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max())
    ones = torch.ones_like(normed[0][..., :1])
    pseudo = seen[0].grad[0].T @ torch.cat([normed[0], ones], dim=-1)[0].detach()
    assert torch.allclose(found[1], pseudo, rtol=1e-3, atol=1e-4 * pseudo.abs().max())
    cosine = nn.functional.cosine_similarity(found[0].flatten(), found[1].flatten(), dim=0)
    assert abs(cosine) < 0.5


def test_torchvisions_names_are_listed_and_misspelt_ones_answered() -> None:
    """With the weights' names."""
    assert "resnet50.IMAGENET1K_V2" in list_names()
    card = describe("resnet18.IMAGENET1K_V1")
    assert (card.parameters, card.image_size, card.embedding_dim) == (11_689_512, 224, 512)
    with pytest.raises(UsageError, match="resnet50"):
        load_backbone("torchvision:resnet_50")
    with pytest.raises(UsageError, match="IMAGENET1K_V1"):
        load_backbone("torchvision:resnet50.V3")


HUBCONF = """
import torch

dependencies = ["torch"]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = torch.nn.Module()
        self.attn.proj = torch.nn.Linear(3, 5)

    def forward(self, pixels):
        return self.attn.proj(pixels.mean(dim=(2, 3)))


def tiny(pretrained=True):
    open(__file__ + ".ran", "w").close()
    return Net()
"""


def test_a_repository_runs_its_code_where_it_is_trusted_alone(tmp_path: Path) -> None:
    """Nothing of it is run before; then its module is a model, with a file's weights."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "hubconf.py").write_text(HUBCONF)
    write_images(tmp_path / "images", 3)
    weights = {"attn.proj.weight": torch.ones(5, 3), "attn.proj.bias": torch.zeros(5)}
    torch.save({"state_dict": weights}, tmp_path / "w.pth")
    model = f"hub:{repository}:tiny"
    options = fungi.ExtractOptions(model=model, weights=str(tmp_path / "w.pth"), image_size=32)
    with pytest.raises(UsageError, match="trust-code"):
        fungi.extract(tmp_path / "images", tmp_path / "s.fungi", options)
    assert not list(repository.glob("*.ran"))
    trusting = fungi.ExtractOptions.from_config(options.to_config() | {"trust_code": True})
    done = fungi.extract(tmp_path / "images", tmp_path / "s.fungi", trusting)
    assert done.failed == 0
    embeddings = fungi.Store.open(tmp_path / "s.fungi").arrays(done.feature_set)["embeddings"]
    rows = embeddings.read(0, 3)
    assert np.allclose(rows, rows[:, :1])  # the file's ones make all numbers of a row the same
    assert np.abs(rows).min() > 0
    fungi.build_index(tmp_path / "s.fungi", fungi.IndexOptions(features=("embeddings",)))
    image = str(next((tmp_path / "images").iterdir()))
    with pytest.raises(UsageError, match="trust-code"):
        fungi.search(tmp_path / "s.fungi", [image])
    trusted = fungi.SearchOptions(trust_code=True)
    assert fungi.search(tmp_path / "s.fungi", [image], trusted).answers
    with pytest.raises(UsageError, match="no such entry"):
        load_backbone(f"hub:{repository}:tine")


def test_a_convolution_is_a_target_too(photo: Image.Image, tmp_path: Path) -> None:
    """Of torchvision's models as of timm's: against autograd."""
    torch.manual_seed(0)
    theirs = models.resnet18(weights=None).eval()
    layer = "layer4.1.conv2"
    encoder: Any = load_backbone(
        "torchvision:resnet18", weights=saved(theirs, tmp_path), image_size=64, target_layer=layer
    )
    view = encoder.transform(photo)[None]
    tape = gradient_path(encoder).record([(view[:, None],)])
    found = tape.gradients(tape.embeddings.square().sum(dim=(1, 2)))[0]
    theirs.fc = nn.Identity()
    theirs(view).square().sum().backward()
    wanted = theirs.get_submodule(layer).weight.grad.flatten(1)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max())


class Ordered(Tiny):
    """One whose layer gets its input by name, with tokens or samples in front."""

    def __init__(self, *, tokens_first: bool = False) -> None:
        super().__init__()
        self.order = (2, 0, 1) if tokens_first else (0, 2, 1)
        nn.utils.parametrizations.weight_norm(self.patches)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return a mean of tokens [n, 6]."""
        tokens = self.patches(pixels).flatten(2).permute(self.order)
        return torch.tanh(self.attn.proj(input=tokens)).mean(dim=self.order.index(2))


def recorded(module: nn.Module, target: str, images: torch.Tensor) -> torch.Tensor:
    encoder = fungi.Encoder(module, TRANSFORM, name=f"order-{id(module)}", target=target)
    tape = gradient_path(encoder.load(None)).record([(images[:, None],)])
    return tape.gradients(tape.embeddings.square().sum(dim=(1, 2)))


@pytest.mark.parametrize("target", ["attn.proj", "patches"])
def test_inputs_by_name_and_weights_that_are_computed_have_gradients(target: str) -> None:
    """A weight norm's gradient is that of the weight it makes, as autograd gives it."""
    module, images = Ordered().eval(), torch.randn(3, 3, 32, 32)
    found = recorded(module, target, images)
    plain: Any = Tiny()
    plain.patches.load_state_dict(
        {"weight": module.patches.weight, "bias": module.patches.bias}, strict=True
    )
    plain.attn.load_state_dict(module.attn.state_dict())
    plain.order = module.order
    trained: Any = plain.get_submodule(target)
    for image, gradient in zip(images, found, strict=True):
        plain.zero_grad()
        Ordered.forward(plain, image[None]).square().sum().backward()
        wanted = [trained.weight.grad.flatten(1), trained.bias.grad[:, None]]
        torch.testing.assert_close(gradient, torch.cat(wanted, dim=1), rtol=1e-4, atol=1e-6)


def test_tokens_before_samples_are_refused() -> None:
    """Rows of such a layer would be attributed to the wrong samples."""
    with pytest.raises(UsageError, match="not sample after sample"):
        recorded(Ordered(tokens_first=True), "attn.proj", torch.randn(4, 3, 32, 32))
    one = recorded(Ordered(tokens_first=True), "attn.proj", torch.randn(1, 3, 32, 32))
    assert one.shape == (1, 6, 7)


def test_unfolded_attention_is_torchs_and_publishes_what_enters_it() -> None:
    """The same numbers; the published layer meets the tokens that enter, and changes nothing."""
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    tokens = torch.randn(3, 5, 8)
    wanted = fused(tokens, tokens, tokens, need_weights=False)[0]
    unfolded = UnfoldedAttention(fused)
    assert torch.allclose(unfolded(tokens, tokens, tokens)[0], wanted, atol=1e-6)
    met: list[tuple[torch.Tensor, ...]] = []
    unfolded.publish().register_forward_hook(
        lambda _, entered, output: met.append((*entered, output))
    )
    assert torch.allclose(unfolded(tokens, tokens, tokens)[0], wanted, atol=1e-6)
    assert torch.equal(met[0][0], tokens)
    assert torch.equal(met[0][1], met[0][2])
