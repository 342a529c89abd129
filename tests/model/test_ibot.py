"""iBOT: its loss and its masks against independent readings, its gradients against autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from timm.data import resolve_data_config
from torch import Tensor, nn

from fungistore.backbones.encoder import TokenGrid, remarks_of
from fungistore.backbones.families import load_backbone
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.backbones.timm_vit.fitting import fit_weights
from fungistore.backbones.timm_vit.masking import can_mask, learnt_mask_token, masking
from fungistore.errors import UsageError
from fungistore.gradients.class_token import ClassTokenPath
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path, token_path
from fungistore.gradients.tape import Tape
from fungistore.modalities.image.masked_blocks import MaskedCrops, block_mask
from fungistore.objectives.ibot import IBOT
from fungistore.objectives.objective import ViewOutputs
from fungistore.objectives.views import recipe_of
from fungistore.randomness import Stream

WeightsFile = Callable[[str], Path]
Heads = dict[str, nn.Linear]
TERMS = {"both": IBOT(), "class": IBOT(patch_weight=0.0), "patch": IBOT(class_weight=0.0)}
# a class token; an average; an attention pool; a distillation token; registers; rotary positions
MODELS = {
    "test_vit": {},
    "test_vit2": {},
    "test_vit3": {},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "vit_small_patch14_reg4_dinov2": {"depth": 2},
    "eva02_tiny_patch14_224": {"depth": 2},
}


def encoder_of(name: str, *, dynamic: bool = False, mask_token: Tensor | None = None) -> TimmViT:
    """A random encoder of 5 x 5 patches, so small that a test takes a moment."""
    torch.manual_seed(0)
    options = dict(MODELS[name]) | ({"dynamic_img_size": True} if dynamic else {})
    patch = 14 if "14" in name else 16
    model: Any = timm.create_model(name, num_classes=0, img_size=5 * patch, **options).eval()
    for parameter in model.requires_grad_(False).parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return TimmViT(
        name=name,
        module=model,
        image_size=5 * patch,
        patch_size=patch,
        embedding_dim=model.num_features,
        token_dim=model.embed_dim,
        prefix_tokens=getattr(model, "num_prefix_tokens", 1),
        pooling=str(model.global_pool),
        target_layer=f"blocks.{len(model.blocks) - 1}.attn.proj",
        data_config=resolve_data_config({}, model=model),
        weights_hash="",
        masks_patches=True,
        mask_token=mask_token,
    )


def heads_of(objective: IBOT, embedding_dim: int, token_dim: int) -> Heads:
    torch.manual_seed(1)
    needs = objective.needs
    heads = {name: nn.Linear(embedding_dim, width) for name, width in needs.heads.items()}
    heads |= {name: nn.Linear(token_dim, width) for name, width in needs.token_heads.items()}
    return {name: head.requires_grad_(False) for name, head in heads.items()}


def some_masks(objective: IBOT, samples: int, side: int = 5) -> Tensor:
    """Masks of crops, [b, c, side, side], as the recipe draws them."""
    masks = [
        [
            block_mask(side, side, objective.request, Stream(0, "mask", str(sample), str(crop)))
            for crop in range(objective.crops)
        ]
        for sample in range(samples)
    ]
    return torch.from_numpy(np.array(masks).astype(np.uint8))


def as_views(crops: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of whole crops, and of masked ones behind them."""
    pixels = torch.cat([crops, crops], dim=1)
    return pixels, torch.cat([torch.zeros_like(masks), masks], dim=1).bool()


# --- the loss


def loss_by_hand(
    objective: IBOT, embeddings: Any, tokens: Any, masks: Any, heads: dict[str, tuple[Any, Any]]
) -> list[float]:
    """Equations 2 and 3 of the iBOT paper, pair by pair and patch by patch, in NumPy."""

    def scores(name: str, x: Any, temperature: float) -> Any:
        x = x / np.sqrt((x * x).sum()) if objective.normalize else x
        weight, bias = np.eye(len(x)), 0.0  # without a head
        if objective.head_dim:
            weight, bias = heads[name if name in heads else name.replace("teacher", "student")]
        powers = np.exp((weight @ x + bias) / temperature)
        return powers / powers.sum()

    def entropy(of: str, taught: Any, learning: Any) -> float:
        q = scores(f"{of}teacher", taught, objective.teacher_temperature)
        p = scores(f"{of}student", learning, objective.student_temperature)
        return float(-(q * np.log(p)).sum())

    count = objective.crops
    losses = []
    for e, t, m in zip(embeddings, tokens, masks, strict=True):
        pairs = [(u, v) for u in range(count) for v in range(count) if u != v or count == 1]
        loss = 0.0
        if objective.class_weight:
            among = [entropy("", e[u], e[count + v]) for u, v in pairs]
            loss += objective.class_weight * float(np.mean(among))
        if objective.patch_weight:
            of_crops = []
            for crop in range(count):
                places = [(i, j) for i in range(5) for j in range(5) if m[crop, i, j]]
                here = [entropy("patch_", t[crop][at], t[count + crop][at]) for at in places]
                of_crops.append(np.mean(here))
            loss += objective.patch_weight * float(np.mean(of_crops))
        losses.append(loss)
    return losses


@pytest.mark.parametrize(
    "objective",
    [
        *TERMS.values(),
        IBOT(crops=1),
        IBOT(shared_head=True),
        IBOT(head_dim=0),
        IBOT(crops=3, normalize=False, class_weight=0.3, patch_weight=2.0),
        IBOT(student_temperature=0.2, teacher_temperature=0.04, mask_ratio=(0.9, 1.0)),
    ],
    ids=str,
)
def test_the_loss_is_the_papers_written_out(objective: IBOT) -> None:
    """Cross-entropies of teacher and student: between other crops, and at masked patches alone."""
    objective = replace(objective, head_dim=min(objective.head_dim, 7))
    heads = heads_of(objective, 6, 9)
    heads = {name: head.double() for name, head in heads.items()}
    torch.manual_seed(2)
    embeddings = torch.randn(3, 2 * objective.crops, 6).double()
    tokens = torch.randn(3, 2 * objective.crops, 5, 5, 9).double()
    masks = some_masks(objective, 3)
    views = ViewOutputs(embeddings, (TokenGrid(tokens),), (torch.zeros(3), masks))
    numbers = {name: (h.weight.numpy(), h.bias.numpy()) for name, h in heads.items()}
    expected = loss_by_hand(objective, embeddings.numpy(), tokens.numpy(), masks.numpy(), numbers)
    found = objective.losses(views, heads, None)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_teacher_learns_nothing() -> None:
    """Gradients reach the masked views alone."""
    objective = replace(IBOT(), head_dim=7)
    embeddings = torch.randn(2, 4, 6, requires_grad=True)
    tokens = torch.randn(2, 4, 5, 5, 9, requires_grad=True)
    masks = some_masks(objective, 2)
    views = ViewOutputs(embeddings, (TokenGrid(tokens),), (masks,))
    objective.losses(views, heads_of(objective, 6, 9)).sum().backward()
    assert embeddings.grad is not None
    assert tokens.grad is not None
    assert not embeddings.grad[:, :2].any()
    assert embeddings.grad[:, 2:].any()
    moved = tokens.grad.abs().sum(-1) > 0
    assert torch.equal(moved, torch.cat([torch.zeros_like(masks), masks], dim=1).bool())


def test_a_term_that_is_left_out_needs_nothing() -> None:
    """Without the patch term no tokens are read; without the class term no embedding's heads."""
    assert not TERMS["class"].needs.tokens
    assert TERMS["class"].needs.token_heads == {}
    assert TERMS["patch"].needs.heads == {}
    assert len({*IBOT().needs.heads, *IBOT().needs.token_heads}) == 4
    shared = IBOT(shared_head=True).needs
    assert len({*shared.heads, *shared.token_heads}) == 2


@pytest.mark.parametrize(
    "parameters",
    [
        {"student_temperature": 0.0},
        {"teacher_temperature": -1.0},
        {"class_weight": -0.1},
        {"patch_weight": float("inf")},
        {"class_weight": 0.0, "patch_weight": 0.0},
        {"scale": (0.5, 0.2)},
        {"mask_ratio": (0.0, 0.5)},
        {"mask_ratio": (0.1, 1.1)},
        {"mask_aspect": 0.0},
        {"mask_aspect": 1.5},
        {"head_dim": -1},
        {"head_dim": 0, "shared_head": True},
        {"crops": 0},
    ],
    ids=str,
)
def test_unusable_parameters_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"ibot\."):
        IBOT(**parameters)


# --- the masks


@pytest.mark.parametrize("sides", [(16, 16), (13, 13), (5, 5), (2, 2), (1, 1), (3, 14), (37, 37)])
@pytest.mark.parametrize("ratio", [(0.1, 0.5), (0.3, 0.3), (1.0, 1.0), (0.01, 0.02)])
def test_the_masked_share_is_within_its_range(
    sides: tuple[int, int], ratio: tuple[float, float]
) -> None:
    """Of any grid, and never nothing: a range that holds no number of patches gives its upper end.

    The number of masked patches is drawn evenly, and so reaches both ends.
    """
    request = replace(IBOT(), mask_ratio=ratio).request
    cells = sides[0] * sides[1]
    found = {int(block_mask(*sides, request, Stream(s, "m")).sum()) for s in range(40)}
    allowed = {n for n in range(1, cells + 1) if ratio[0] <= n / cells <= ratio[1]}
    allowed = allowed or {max(1, int(np.ceil(ratio[0] * cells)))}
    assert found <= allowed
    if len(allowed) <= 10:
        assert found == allowed


def test_masks_are_blocks() -> None:
    """Masked patches are neighbours far more often than single ones would be; shapes differ."""
    request = replace(IBOT(), mask_ratio=(0.3, 0.3)).request
    masks = [block_mask(16, 16, request, Stream(seed, "m")) for seed in range(100)]
    together = np.mean([(m[1:] & m[:-1]).sum() + (m[:, 1:] & m[:, :-1]).sum() for m in masks])
    assert together > 2 * 480 * (76 / 256) * (75 / 255)  # of the grid's 480 pairs of neighbours
    heights = [np.flatnonzero(m.any(axis=1)).size for m in masks]
    assert len(set(heights)) > 5
    covered = np.mean(masks, axis=0)
    assert covered.min() > 0  # corners, too
    assert covered.max() < 0.7


def test_a_blocks_sides_are_within_its_aspect() -> None:
    """Where blocks are squares, a mask of one is square; else its sides differ up to 3.3 times."""
    found: dict[float, set[float]] = {1.0: set(), 0.3: set()}
    for aspect, ratios in found.items():
        request = replace(IBOT(), mask_ratio=(0.25, 0.25), mask_aspect=aspect).request
        for seed in range(150):
            mask = block_mask(24, 24, request, Stream(seed, "m"))
            height, width = mask.any(axis=1).sum(), mask.any(axis=0).sum()
            if height * width == mask.sum():
                ratios.add(height / width)
    assert found[1.0] == {1.0}
    assert len(found[0.3]) > 1
    assert 0.25 < min(found[0.3]) < 0.9 < 1.1 < max(found[0.3]) < 4


def test_a_sample_has_its_own_masks(photos: list[NDArray[np.uint8]]) -> None:
    """They follow from seed and id, whatever the image's shape is, and differ between crops."""
    recipe = recipe_of(IBOT(), encoder_of("test_vit"), "model")
    assert isinstance(recipe, MaskedCrops)
    drawn = [recipe.draw(photo, Stream(7, "views", "ibot", "a"))[-1] for photo in photos[:2]]
    assert np.array_equal(*drawn)
    other = recipe.draw(photos[0], Stream(7, "views", "ibot", "b"))[-1]
    masks = [*drawn[0], *other]
    assert not any(np.array_equal(masks[i], masks[j]) for i in range(4) for j in range(i))
    assert drawn[0].shape == (2, 5, 5)
    assert drawn[0].dtype == np.uint8


@pytest.mark.parametrize("cut", [slice(0, 4), slice(0, 1), slice(1, 3), slice(3, 4), slice(2, 4)])
def test_whole_crops_come_first(photos: list[NDArray[np.uint8]], cut: slice) -> None:
    """Views 2 and 3 are the pixels of views 0 and 1, and masked, in chunks of any length."""
    recipe = recipe_of(IBOT(), encoder_of("test_vit"), "model")
    assert recipe is not None
    ((count, size),) = [(group.count, group.size) for group in recipe.groups]
    assert (count, size) == (4, 80)
    items = [recipe.draw(photo, Stream(0, str(i))) for i, photo in enumerate(photos[:3])]
    drawn = tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*items, strict=True))
    pixels, masked = recipe.render(drawn, 0, cut)
    crops = drawn[0].float() / 255
    mean, std = (torch.tensor((0.5,) * 3)[:, None, None] for _ in range(2))
    crops, masks = (crops - mean) / std, drawn[1].bool()
    expected, hidden = as_views(crops, masks)
    assert torch.allclose(pixels, expected[:, cut], atol=1e-6)
    assert torch.equal(masked, hidden[:, cut])


# --- masks in a model


class Given(nn.Module):
    """A patch embedding that gives the tokens it was given."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tokens


@contextmanager
def embedding_gives(model: Any, tokens: Tensor) -> Iterator[None]:
    """Run a model on tokens of its patches, whatever its pixels are."""
    own = model.patch_embed
    given = Given(tokens)
    for name in ("patch_size", "grid_size", "dynamic_feat_size"):
        if hasattr(own, name):
            setattr(given, name, getattr(own, name))
    model.patch_embed = given
    try:
        yield
    finally:
        model.patch_embed = own


def by_hand(encoder: TimmViT, pixels: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and tokens of masked pixels, the masked tokens written one by one."""
    tokens = encoder.module.patch_embed(pixels)
    flat = tokens.flatten(1, -2).clone()
    for view, mask in enumerate(masked.flatten(1)):
        stand_in = encoder.mask_token
        if stand_in is None:
            stand_in = tokens[view].reshape(25, -1).mean(0)
        for place in range(25):
            if mask[place]:
                flat[view, place] = stand_in
    with embedding_gives(encoder.module, flat.view_as(tokens)):
        features = encoder.module.forward_features(pixels)
    patches = features[:, encoder.prefix_tokens :].unflatten(1, (5, 5))
    return encoder.module.forward_head(features), patches


def pixels_of(encoder: TimmViT, *shape: int) -> Tensor:
    torch.manual_seed(3)
    side = encoder.image_size
    return torch.randn(*shape, 3, side, side) + 2 * torch.randn(*shape, 3, 1, 1)


@pytest.mark.parametrize("learnt", [False, True], ids=["mean", "learnt"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_agree_with_autograd(name: str, learnt: bool) -> None:
    """Of both terms, with class, distillation and register tokens, and with none that is pooled."""
    encoder = encoder_of(name)
    if learnt:
        encoder = replace(encoder, mask_token=torch.randn(encoder.token_dim))
    check_gradients(encoder, IBOT())


@pytest.mark.parametrize("term", ["class", "patch"])
def test_each_terms_gradients_agree_with_autograd(term: str) -> None:
    check_gradients(encoder_of("test_vit"), TERMS[term])


def check_gradients(encoder: TimmViT, objective: IBOT) -> None:
    """Compare loss.backward() of each sample, on tokens that are masked by hand."""
    objective = replace(objective, head_dim=32)
    crops, masks = pixels_of(encoder, 2, 2), some_masks(objective, 2)
    pixels, masked = as_views(crops, masks)
    heads = heads_of(objective, encoder.embedding_dim, encoder.token_dim)
    target = encoder.target
    assert isinstance(target, nn.Linear)
    target.requires_grad_(True)
    expected = []
    for sample in range(2):
        target.zero_grad()
        embeddings, tokens = by_hand(encoder, pixels[sample], masked[sample])
        views = ViewOutputs(embeddings[None], (TokenGrid(tokens[None]),), (masks[[sample]],))
        objective.losses(views, heads).sum().backward()
        assert target.weight.grad is not None
        assert target.bias.grad is not None
        expected.append(torch.cat([target.weight.grad, target.bias.grad[:, None]], dim=1))
    target.requires_grad_(False)
    tape = recorded(encoder, objective, pixels, masked)
    outputs = ViewOutputs(tape.embeddings, tape.tokens, (masks,))
    found = tape.gradients(objective.losses(outputs, heads))
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def recorded(encoder: TimmViT, objective: IBOT, pixels: Tensor, masked: Tensor) -> Tape:
    """A tape of the path that an extraction takes."""
    path = gradient_path(encoder)
    if objective.needs.tokens:
        return token_path(encoder, path).record([(pixels, masked)], tokens=True)
    return path.record([(pixels[:, :3], masked[:, :3]), (pixels[:, 3:], masked[:, 3:])])


@pytest.mark.parametrize("token", [None, torch.arange(64.0) / 16], ids=["mean", "learnt"])
def test_the_class_term_alone_takes_the_fast_path(token: Tensor | None) -> None:
    """Its embeddings are those of whole forwards."""
    encoder = encoder_of("test_vit", mask_token=token)
    path = gradient_path(encoder)
    assert isinstance(path, ClassTokenPath)
    pixels, masked = as_views(pixels_of(encoder, 2, 2), some_masks(IBOT(), 2))
    fast = path.record([(pixels, masked)]).embeddings
    general = LayerPath(encoder).record([(pixels, masked)]).embeddings
    assert torch.allclose(fast, general, atol=1e-5)
    assert (fast[:, :2] - fast[:, 2:]).abs().max() > 0.1  # masks change what is seen


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "native"])
def test_the_mean_token_is_the_mean_patch(dynamic: bool) -> None:
    """The patch embedding is linear: pixels whose masked patches are the mean patch give the same.

    With images of any size, tokens come as a grid; one that is whole is as if nothing were masked.
    """
    encoder = encoder_of("test_vit", dynamic=dynamic)
    pixels, masks = pixels_of(encoder, 3), some_masks(replace(IBOT(), crops=1), 3)[:, 0].bool()
    masks[1] = False
    patches = pixels.unfold(2, 16, 16).unfold(3, 16, 16)  # [n, 3, 5, 5, 16, 16]
    mean = patches.mean(dim=(2, 3), keepdim=True)
    blurred = torch.where(masks[:, None, :, :, None, None], mean, patches)
    blurred = blurred.permute(0, 1, 2, 4, 3, 5).reshape(pixels.shape)
    ours, theirs = encoder.run((pixels, masks)), encoder.run((blurred,))
    assert ours.grid is not None
    assert theirs.grid is not None
    assert torch.allclose(ours.embeddings, theirs.embeddings, atol=1e-5)
    assert torch.allclose(ours.grid.tokens, theirs.grid.tokens, atol=1e-5)
    assert torch.equal(ours.embeddings[1], encoder.run((pixels,)).embeddings[1])


@pytest.mark.parametrize("learnt", [False, True], ids=["mean", "learnt"])
def test_a_trunk_in_bfloat16_masks_as_well(learnt: bool) -> None:
    """The gradients keep their direction."""
    token = torch.randn(64) if learnt else None
    found = []
    objective = replace(IBOT(), head_dim=32)
    for dtype in (torch.float32, torch.bfloat16):
        encoder = encoder_of("test_vit", mask_token=token)
        path = token_path(encoder, gradient_path(encoder, dtype))
        masks = some_masks(objective, 2)
        tape = path.record([as_views(pixels_of(encoder, 2, 2), masks)], tokens=True)
        heads = heads_of(objective, 64, 64)
        outputs = ViewOutputs(tape.embeddings, tape.tokens, (masks,))
        found.append(tape.gradients(objective.losses(outputs, heads)).flatten(1))
    cosines = nn.functional.cosine_similarity(*found, dim=1)
    assert 0.99 < float(cosines.min()) < 1 - 1e-9


def test_a_patch_embedding_is_made_to_mask_once() -> None:
    """Asked twice, the mean that stands for a patch is still that of the patches, not of means."""
    layer = nn.Linear(2, 2)
    tokens, masked = torch.randn(1, 4, 2), torch.tensor([[[True, False], [False, False]]])
    for _ in range(2):
        can_mask(layer)
        with masking(masked, token=None):
            found = layer(tokens)
        torch.testing.assert_close(found[:, 0], layer(tokens).mean(dim=1))


def test_masks_of_several_threads_do_not_meet() -> None:
    """Each forward has its own while another one runs, and one after them none."""
    encoder = encoder_of("test_vit")
    pixels = pixels_of(encoder, 1)
    masks = some_masks(IBOT(crops=8), 1)[0].bool()
    alone = [encoder.run((pixels, mask[None])).embeddings for mask in masks]
    met = Barrier(2, timeout=60)

    def meet(*_: object) -> None:
        met.wait()

    hook = encoder.module.patch_embed.register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda mask: encoder.run((pixels, mask[None])).embeddings, masks))
    hook.remove()
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one, other)
    whole = encoder.run((pixels,)).embeddings
    assert not any(torch.allclose(whole, one, atol=1e-3) for one in alone)


# --- which models, and which token


def weights_with(weights_file: WeightsFile, folder: Path, **more: Tensor) -> Path:
    path = folder / "weights.safetensors"
    save_file(load_file(weights_file("test_vit")) | more, path)
    return path


def test_a_learnt_token_is_taken_where_the_weights_have_one(
    weights_file: WeightsFile, tmp_path: Path
) -> None:
    """It decides what is computed, and so is part of the weights' digest."""
    token = torch.arange(64.0).reshape(1, 64)
    path = weights_with(weights_file, tmp_path, mask_token=token)
    learnt = load_backbone("test_vit", weights=path, image_size=80)
    plain = load_backbone("test_vit", weights=weights_file("test_vit"), image_size=80)
    assert isinstance(learnt, TimmViT)
    assert isinstance(plain, TimmViT)
    assert learnt.mask_token is not None
    assert torch.equal(learnt.mask_token, token[0])
    assert plain.mask_token is None
    assert learnt.masks_patches
    assert plain.masks_patches
    assert learnt.weights_hash != plain.weights_hash
    for encoder, said in ((learnt, "own mask token"), (plain, "the mean of a crop's")):
        recipe = recipe_of(IBOT(), encoder, "model")
        assert isinstance(recipe, MaskedCrops)
        assert said in remarks_of(recipe)[0]
    pixels = pixels_of(plain, 1)
    masks = some_masks(IBOT(), 1)[:, 0].bool()
    expected, tokens = by_hand(learnt, pixels, masks)
    encoded = learnt.run((pixels, masks))
    assert encoded.grid is not None
    assert torch.allclose(encoded.embeddings, expected, atol=1e-5)
    assert torch.allclose(encoded.grid.tokens, tokens, atol=1e-5)
    assert not torch.allclose(plain.run((pixels, masks)).embeddings, expected, atol=1e-2)
    assert torch.equal(plain.run((pixels,)).embeddings, learnt.run((pixels,)).embeddings)


@pytest.mark.parametrize(
    ("state", "is_there"),
    [
        ({"mask_token": torch.ones(1, 1, 8)}, True),
        ({"model": {"module.mask_token": torch.ones(8), "cls_token": torch.ones(1, 1, 8)}}, True),
        ({"mask_token": torch.ones(1, 1, 8), "decoder_embed.weight": torch.ones(4, 8)}, False),
        ({"mask_token": torch.ones(1, 1, 4)}, False),
        ({}, False),
    ],
    ids=["DINOv2", "wrapped", "MAE's decoder", "other width", "none"],
)
def test_mask_tokens_of_stored_weights(state: dict[str, Any], is_there: bool) -> None:
    """A decoder's is not the encoder's."""
    found = learnt_mask_token(state, 8)
    assert (found is not None) == is_there
    assert found is None or found.shape == (8,)


def test_a_file_may_have_a_mask_token_that_timm_has_no_place_for() -> None:
    """Of BEiT, whose weights timm takes over name by name; it is no part of the model."""
    name = "beit_base_patch16_224"
    with torch.device("meta"):
        model: Any = timm.create_model(name, num_classes=0, depth=1)
    model = model.to_empty(device="cpu")
    state = model.state_dict() | {"mask_token": torch.ones(1, 1, 768)}
    fitted = fit_weights(model, state, name, where="a file", extra_is_error=True)
    assert "mask_token" in fitted.used
    assert fitted.left_out == ()
    with pytest.raises(UsageError, match="unexpected"):
        fit_weights(model, state | {"junk": torch.ones(1)}, name, where="f", extra_is_error=True)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_models_without_patches_of_their_own_are_refused(
    weights_file: WeightsFile, name: str
) -> None:
    """Convolutions mix what is near: the error names the model, and what it has instead."""
    encoder = load_backbone(name, weights=weights_file(name))
    with pytest.raises(UsageError, match="patches cannot be masked") as refused:
        recipe_of(IBOT(), encoder, "model")
    assert name in str(refused.value)
    assert "leave out ibot" in str(refused.value)


def test_views_of_native_size_have_masks_of_their_own_grid(
    weights_file: WeightsFile, photos: list[NDArray[np.uint8]]
) -> None:
    """A crop has 0.79 of the image's pixels a side, in whole patches, and as many tokens."""
    encoder = load_backbone(
        "test_vit", weights=weights_file("test_vit"), image_size=80, view_size="native"
    )
    recipe = recipe_of(IBOT(), encoder, "native")
    assert recipe is not None
    drawn = tuple(torch.from_numpy(array)[None] for array in recipe.draw(photos[0], Stream(0)))
    pixels, masked = recipe.render(drawn, 0, slice(0, 4))
    assert pixels.shape[-2:] == (64, 64)
    assert masked.shape == (1, 4, 4, 4)
    tape = token_path(encoder, gradient_path(encoder)).record([(pixels, masked)], tokens=True)
    assert tape.tokens[0].tokens.shape == (1, 4, 4, 4, 64)
    objective = replace(IBOT(), head_dim=16)
    views = ViewOutputs(tape.embeddings, tape.tokens, drawn)
    losses = objective.losses(views, heads_of(objective, 64, 64))
    assert tape.gradients(losses).norm() > 0
