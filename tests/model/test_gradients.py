"""Per-sample gradients against plain autograd of the same loss through the same timm model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.layers.attention import Attention
from torch import Tensor, nn

from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.errors import UsageError
from fungistore.gradients import batching
from fungistore.gradients.class_token import ClassTokenPath
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path, token_path
from fungistore.gradients.tape import GradientPath
from fungistore.objectives.deepcluster import DeepCluster
from fungistore.objectives.dino import DINO
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import ViewOutputs
from fungistore.objectives.simclr import SimCLR

PathOf = Callable[[TimmViT], GradientPath]

CLASS_TOKEN_MODELS = [
    "test_vit",  # class token, layer scale off
    "deit_tiny_patch16_224",
    "vit_small_patch14_dinov2",  # layer scale
    "vit_small_patch14_reg4_dinov2",  # layer scale and register tokens
    "vit_xsmall_patch16_clip_224",  # norm_pre and a projection head of another width
    "deit3_small_patch16_224",  # position embeddings without the class token
]
OTHER_MODELS = [
    "vit_base_patch16_gap_224",  # average pool, no class token
    "vit_base_patch16_siglip_224",  # attention pool
    "deit_tiny_distilled_patch16_224",  # two pooled tokens
    "eva02_tiny_patch14_224",  # rotary positions
    "beit_base_patch16_224",  # relative positions
    "test_vit2",
]


def small(name: str, target_layer: str | None = None, **variant: bool) -> TimmViT:
    """A randomly initialised backbone at 4 x 4 patches, with non-trivial norms and layer scales."""
    with torch.device("meta"):
        patch = timm.create_model(name, pretrained=False, num_classes=0).patch_embed.patch_size[0]
    torch.manual_seed(0)
    options = {"depth": 3} if "base" in name or "small" in name else {}  # wide ones take long
    clip = "clip" in name
    model = timm.create_model(
        name,
        pretrained=False,
        img_size=4 * patch,
        **options,
        **variant,
        **({} if clip else {"num_classes": 0}),
    ).eval()
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
        elif key.endswith("weight"):  # timm's are so small that all views embed alike
            parameter.data *= 3
    model.requires_grad_(False)
    return TimmViT(
        name=name,
        module=model,
        image_size=4 * patch,
        patch_size=patch,
        embedding_dim=model.head.out_features if clip else model.num_features,
        token_dim=model.embed_dim,
        prefix_tokens=getattr(model, "num_prefix_tokens", 1),
        pooling=str(model.global_pool),
        target_layer=target_layer or f"blocks.{len(model.blocks) - 1}.attn.proj",
        data_config=resolve_data_config({}, model=model),
        weights_hash="",
    )


def class_token_path(backbone: TimmViT) -> ClassTokenPath:
    """The fast path, for a model that can be cut so."""
    split = backbone.class_token_split()
    assert split is not None
    return ClassTokenPath(backbone, split)


def heads_for(objective: KL | DINO | SimCLR | DeepCluster, width: int) -> dict[str, nn.Linear]:
    torch.manual_seed(1)
    return {name: nn.Linear(width, d) for name, d in objective.needs.heads.items()}


def autograd_oracle(
    backbone: TimmViT,
    views: Tensor,
    objective: KL | DINO | SimCLR | DeepCluster,
    heads: dict[str, nn.Linear],
    negatives: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One image at a time: loss.backward() into the target's weight and bias."""
    target = backbone.target.requires_grad_(True)
    rows = []
    embeddings = []
    for image in views:
        target.zero_grad()
        embedding = backbone.module(image)[None]
        objective.losses(ViewOutputs(embedding), heads, negatives).sum().backward()
        assert target.weight.grad is not None
        columns = [target.weight.grad]
        if target.bias is not None:
            assert target.bias.grad is not None
            columns.append(target.bias.grad[:, None])
        rows.append(torch.cat(columns, dim=1))
        embeddings.append(embedding.detach())
    target.requires_grad_(False)
    return torch.stack(rows), torch.cat(embeddings)


def bank_for(objective: KL | DINO | SimCLR | DeepCluster, width: int) -> Tensor | None:
    if isinstance(objective, DeepCluster):
        return torch.randn(3, 12, 128)
    return torch.randn(10, objective.head_dim or width) if isinstance(objective, SimCLR) else None


def relative_error(ours: Tensor, oracle: Tensor) -> float:
    return float((ours - oracle).norm() / oracle.norm())


def check(
    backbone: TimmViT,
    path_of: PathOf,
    objective: KL | DINO | SimCLR | DeepCluster,
    views: int,
) -> None:
    torch.manual_seed(2)
    pixels = torch.randn(2, views, 3, backbone.image_size, backbone.image_size)
    pixels += 2 * torch.randn(2, views, 3, 1, 1)  # or else all noise looks alike
    heads = heads_for(objective, backbone.embedding_dim)
    bank = bank_for(objective, backbone.embedding_dim)
    oracle, embeddings = autograd_oracle(backbone, pixels, objective, heads, bank)
    tape = path_of(backbone).record((chunk,) for chunk in pixels.split(2, dim=1))
    gradients = tape.gradients(objective.losses(ViewOutputs(tape.embeddings), heads, bank))
    assert gradients.shape == oracle.shape
    assert relative_error(tape.embeddings.detach(), embeddings) < 1e-5
    for ours, theirs in zip(gradients, oracle, strict=True):
        assert relative_error(ours, theirs) < 1e-5
        assert relative_error(ours[:, -1], theirs[:, -1]) < 1e-5  # the bias alone


@pytest.mark.parametrize("name", CLASS_TOKEN_MODELS)
@pytest.mark.parametrize("path_of", [class_token_path, LayerPath])
def test_class_token_models_agree_with_autograd_on_both_paths(name: str, path_of: PathOf) -> None:
    """KL and DINO gradients of class-token models equal autograd's on the fast and general path."""
    backbone = small(name)
    assert isinstance(gradient_path(backbone), ClassTokenPath)
    check(backbone, path_of, KL(), views=1)
    check(backbone, path_of, DINO(global_crops=2, local_crops=2), views=4)


@pytest.mark.parametrize(
    "objective",
    [
        KL(head_dim=0),
        KL(head_dim=0, normalize=False, temperature=1.0),
        DINO(head_dim=0, local_crops=2),
        DINO(shared_head=True, local_crops=2),
        SimCLR(head_dim=0),
    ],
    ids=repr,
)
def test_ablated_heads_agree_with_autograd(objective: KL | DINO | SimCLR) -> None:
    """Where the loss is taken on the embedding, or student and teacher have one head."""
    check(small("test_vit"), class_token_path, objective, 1 if isinstance(objective, KL) else 4)


@pytest.mark.parametrize(
    "variant",
    [{"qkv_bias": False}, {"qk_norm": True}, {"scale_attn_norm": True}],
    ids=str,
)
def test_every_kind_of_attention_agrees_with_autograd(variant: dict[str, bool]) -> None:
    """Whatever timm's attention does to queries, keys and outputs, the fast path does."""
    backbone = small("test_vit", **variant)
    attention = backbone.module.blocks[-1].attn
    attention.gate = nn.Linear(attention.qkv.in_features, attention.attn_dim)
    assert isinstance(gradient_path(backbone), ClassTokenPath)
    check(backbone, class_token_path, KL(), views=1)


def test_a_projection_need_not_be_square() -> None:
    """Of heads that are narrower than the model it takes fewer numbers than it gives."""
    backbone = small("test_vit")
    torch.manual_seed(1)
    narrow = Attention(64, num_heads=2, attn_head_dim=5).requires_grad_(False)
    backbone.module.blocks[-1].attn = narrow.eval()
    check(backbone, class_token_path, KL(), views=1)


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_other_models_agree_with_autograd_on_the_general_path(name: str) -> None:
    """Any pooling works on the general path, and the fast path does not claim such models."""
    backbone = small(name)
    if name != "test_vit2":
        assert backbone.class_token_split() is None
    check(backbone, LayerPath, KL(), views=1)
    check(backbone, LayerPath, SimCLR(), views=3)


@pytest.mark.parametrize(
    ("name", "target"),
    [(name, None) for name in CLASS_TOKEN_MODELS + OTHER_MODELS]
    + [("test_vit", "blocks.2.attn.proj"), ("test_vit", "blocks.0.mlp.fc1")],
)
def test_a_bfloat16_trunk_keeps_the_gradients_direction(name: str, target: str | None) -> None:
    """With the trunk in bfloat16, KL gradients have a cosine above 0.999 with float32's."""
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        backbone = small(name, target)
        torch.manual_seed(2)
        side = backbone.image_size
        pixels = torch.randn(2, 1, 3, side, side) + 2 * torch.randn(2, 1, 3, 1, 1)
        tape = gradient_path(backbone, dtype).record([(pixels,)])
        losses = KL().losses(ViewOutputs(tape.embeddings), heads_for(KL(), backbone.embedding_dim))
        rows = tape.gradients(losses).flatten(1).double()
        gradients.append(rows / rows.norm(dim=1, keepdim=True))
    assert float((gradients[0] * gradients[1]).sum(dim=1).min()) > 0.999


@pytest.mark.parametrize("name", CLASS_TOKEN_MODELS + OTHER_MODELS)
def test_patches_are_the_models_patch_tokens(name: str) -> None:
    """Patch tensors are forward_features' tokens without the prefix, as a grid."""
    backbone = small(name)
    torch.manual_seed(2)
    pixels = torch.randn(2, 1, 3, backbone.image_size, backbone.image_size)
    with torch.no_grad():
        tokens = backbone.module.forward_features(pixels[:, 0])
    patches = gradient_path(backbone).record([(pixels,)], patches=True).patches
    expected = tokens[:, backbone.module.num_prefix_tokens :].unflatten(1, (4, 4))
    assert patches is not None
    assert patches.mask is None
    assert not patches.tokens.requires_grad
    assert relative_error(patches.tokens, expected) < 1e-5


@pytest.mark.parametrize(
    "target", ["blocks.5.mlp.fc2", "blocks.5.attn.qkv", "blocks.2.attn.proj", "blocks.0.mlp.fc1"]
)
def test_any_linear_layer_agrees_with_autograd(target: str) -> None:
    """A target in any block, whose gradient sums over all tokens, is exact on the general path."""
    backbone = small("test_vit", target)
    assert backbone.class_token_split() is None
    check(backbone, LayerPath, DINO(global_crops=2, local_crops=1), views=3)


def test_a_layer_that_runs_in_no_forward_is_refused() -> None:
    """A linear layer that the forward never reaches has no gradient, and the error says so."""
    backbone = small("test_vit")
    backbone.module.blocks[5].idle = nn.Linear(64, 64)
    path = LayerPath(replace(backbone, target_layer="blocks.5.idle"))
    with pytest.raises(UsageError, match="exactly once") as caught:
        path.record([(torch.randn(1, 1, 3, 64, 64),)])
    assert caught.value.found == "0 calls"


def test_a_model_whose_tokens_are_a_map_has_all_but_patches() -> None:
    """SAM's neck makes maps of channels: embeddings and gradients are there, tokens are not."""
    backbone = replace(small("samvit_base_patch16_224"), layout=None)
    path = gradient_path(backbone)
    pixels = torch.randn(2, 1, 3, backbone.image_size, backbone.image_size)
    tape = path.record([(pixels,)])
    torch.testing.assert_close(tape.embeddings[:, 0], backbone.module(pixels[:, 0]))
    assert tape.gradients(tape.embeddings.square().sum((1, 2))).abs().sum() > 0
    with pytest.raises(UsageError, match="no places in a grid"):
        path.record([(pixels,)], patches=True)


def test_simclr_agrees_with_autograd_on_the_class_token_path() -> None:
    """The contrastive gradient, which sums over many views, is exact on the fast path too."""
    check(small("test_vit"), class_token_path, SimCLR(), views=5)


@pytest.mark.parametrize("path_of", [class_token_path, LayerPath])
def test_deepcluster_agrees_with_autograd(path_of: PathOf) -> None:
    """Its assignment crops, which have no gradient, are views like others."""
    check(small("test_vit"), path_of, DeepCluster(local_crops=2), views=6)


def test_chunks_of_unequal_size_may_come_in_a_list() -> None:
    """The last chunk of a group is shorter, a native crop smaller, and a list of them is fine."""
    path = class_token_path(small("test_vit"))
    chunks = [(torch.randn(1, views, 3, 64, 64),) for views in (2, 2, 1)]
    for _ in range(30):  # beartype looks at one chunk, drawn at random
        assert path.record(chunks).embeddings.shape == (1, 5, 64)


def test_a_cpu_runs_the_trunk_on_a_few_views_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many parts as it takes: the gradients are autograd's, the patches one forward's."""
    monkeypatch.setattr(batching, "TOKENS_A_FORWARD", 16)
    assert batching.forward_size(torch.device("cpu"), tokens=16) == 1
    for path_of in (class_token_path, LayerPath):
        check(small("test_vit"), path_of, DINO(global_crops=2, local_crops=2), views=4)

    backbone = small("test_vit")
    pixels = torch.randn(3, 1, 3, backbone.image_size, backbone.image_size)
    path = class_token_path(backbone)
    patches = path.record(iter([(pixels,)]), patches=True).patches
    tokens = backbone.module.forward_features(pixels[:, 0])
    assert patches is not None
    torch.testing.assert_close(patches.tokens, backbone.to_grid(tokens))


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("path_of", [class_token_path, LayerPath])
def test_a_bias_is_the_last_column_where_there_is_one(path_of: PathOf, has_bias: bool) -> None:
    backbone = small("test_vit", proj_bias=has_bias)
    assert path_of(backbone).gradient_shapes[0] == (64, 64 + has_bias)
    check(backbone, path_of, KL(), views=1)


def test_a_path_for_tokens_is_the_general_one() -> None:
    """The one that the encoder has, where it is of that kind."""
    backbone = small("test_vit")
    general = LayerPath(backbone)
    assert token_path(backbone, general) is general
    beside = token_path(backbone, class_token_path(backbone))
    assert isinstance(beside, LayerPath)
    assert beside.gradient_shapes[0] == (64, 65)


@pytest.mark.parametrize("path_of", [class_token_path, LayerPath])
def test_patches_are_kept_only_where_they_are_asked_for(path_of: PathOf) -> None:
    """And of the first view alone, whichever chunk it came in."""
    backbone = small("test_vit")
    path = path_of(backbone)
    chunks = torch.randn(2, 3, 3, backbone.image_size, backbone.image_size).split(1, dim=1)
    assert path.record([(chunk,) for chunk in chunks]).patches is None
    patches = path.record([(chunk,) for chunk in chunks], patches=True).patches
    first = path.record([(chunks[0],)], patches=True).patches
    assert patches is not None
    assert first is not None
    torch.testing.assert_close(patches.tokens, first.tokens)


def test_how_many_views_a_forward_takes_depends_on_their_tokens_alone() -> None:
    """On a CPU the greatest power of two within 1280 tokens; on a GPU as many as there are."""
    cpu = torch.device("cpu")
    assert [batching.forward_size(cpu, tokens) for tokens in (257, 640, 641, 1281, 10)] == [
        4,
        2,
        1,
        1,
        128,
    ]
    assert batching.forward_size(torch.device("cuda"), 257) is None
    sizes = [(8, 3, 100), (8, 3, 5), (8, 3, 2), (8, 4, 100), (64, 1, 16)]
    assert [batching.samples_within(*one) for one in sizes] == [2, 1, 1, 2, 16]
    path = class_token_path(small("test_vit"))
    assert path.samples_at_once(3, 100, cpu, tokens=16) == 21
    assert path.samples_at_once(3, 100, cpu, tokens=320) == 1
