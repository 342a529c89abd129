"""Tensor augmentation: what is drawn for a batch, and how it is applied on the training device.

Drawing is done on the CPU from named, counter-based streams, keyed by (seed, epoch, step): a
resumed run draws what an uninterrupted one would, with nothing stored but these three numbers,
and no other random stream is touched. Each kind of augmentation has its own stream, so turning
one on changes no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import betaincinv
from torch import Tensor

from fungistore.loff.operations import Matrices, operation_matrices
from fungistore.loff.options import FLIPS, TRIVIAL, Augmentation
from fungistore.loff.resample import resample
from fungistore.machine.transfer import send
from fungistore.randomness import Stream


@dataclass(frozen=True, eq=False)
class Draw:
    """Everything random about the augmentation of one batch of b samples, on the CPU.

    Attributes:
        augmentation: what it was drawn for.
        matrices: where each output cell is read from (see `operations`); None: nothing moves.
        moves: whether a sample's matrix is another than the identity.
        shifts: of each channel, as part of its range; None: no brightness.
        partners: the sample that each is mixed with; None: no mixing.
        keeps: how much of its own a sample keeps, cell by cell.
        cells: numbers of those that the head looks at, ascending [b, k]; None: all.
        noise_seed: of the noise, which is made on the training device.
        embedding_noise_seed: of that on the samples' embeddings.
    """

    augmentation: Augmentation
    matrices: Float[Tensor, "b 2 3"] | None
    moves: Bool[Tensor, " b"] | None
    shifts: Float[Tensor, "b d"] | None
    partners: Int[Tensor, " b"] | None
    keeps: Float[Tensor, "b h w"] | None
    cells: Int[Tensor, "b k"] | None
    noise_seed: int
    embedding_noise_seed: int


def draw(
    augmentation: Augmentation,
    shape: tuple[int, int, int, int],
    *,
    seed: int,
    epoch: int,
    step: int,
) -> Draw:
    """Draw the augmentation of one batch.

    A sample's numbers depend on its place in the batch and not on the batch's size, except for
    the partner that it is mixed with.

    Args:
        augmentation: what to draw for.
        shape: (b, h, w, d) of the batch.
        seed: the run's seed.
        epoch: counted from anywhere.
        step: of the epoch.
    """
    count, height, width, channels = shape
    grid = (height, width)

    def stream(purpose: str) -> Stream:
        return Stream(seed, "augment", str(epoch), str(step), purpose)

    matrices = moves = shifts = partners = keeps = cells = None
    if augmentation.operations:
        drawn = draw_matrices(augmentation, count, grid, stream("spatial"))
        matrices = torch.from_numpy(drawn[:, :2].astype(np.float32))
        moves = torch.from_numpy((drawn != np.eye(3)).any(axis=(1, 2)))
    if augmentation.brightness:
        parts = 2 * stream("brightness").uniform(count, channels) - 1
        shifts = torch.from_numpy((augmentation.brightness * parts).astype(np.float32))
    if augmentation.mixup or augmentation.cutmix:
        partners = torch.from_numpy(stream("partners").choice(count, count))
        drawn = draw_keeps(augmentation, count, grid, stream("mixing"))
        keeps = torch.from_numpy(drawn.astype(np.float32))
    if augmentation.drop_tokens:
        cells = draw_cells(augmentation, count, height * width, stream("tokens"))
    seeds = [_seed_of(stream(purpose)) for purpose in ("noise", "embedding noise")]
    return Draw(augmentation, matrices, moves, shifts, partners, keeps, cells, *seeds)


def draw_matrices(
    augmentation: Augmentation, count: int, grid: tuple[int, int], random: Stream
) -> Matrices:
    """Draw a matrix for each sample; operations of a list are composed in their order."""
    names = augmentation.operations
    one_of_them = augmentation.kind == TRIVIAL
    rounds = 1 if one_of_them else len(names)
    numbers = random.uniform(count, rounds, 4)  # which, how strong, and the place of a crop
    strengths = augmentation.strength * (2 * numbers[..., 1] - 1)
    composed = np.tile(np.eye(3), (count, 1, 1))
    for turn in range(rounds):
        which = (numbers[:, turn, 0] * len(names)).astype(int) if one_of_them else turn
        for index, name in enumerate(names):
            chosen = np.broadcast_to(which == index, count)
            if not one_of_them and name in FLIPS:
                chosen = chosen & (strengths[:, turn] > 0)
            composed[chosen] @= operation_matrices(
                name, strengths[chosen, turn], numbers[chosen, turn, 2:], grid
            )
    return composed


def draw_keeps(
    augmentation: Augmentation, count: int, grid: tuple[int, int], random: Stream
) -> Float[np.ndarray, "{count} h w"]:
    """Draw how much of its own content each cell of each sample keeps, between 0 and 1.

    Mixup (Zhang et al., ICLR 2018) keeps lambda ~ Beta(alpha, alpha) of every cell. CutMix (Yun et
    al., ICCV 2019) keeps all of a cell, or nothing inside a box of sqrt(1 - lambda) times the
    sides, rounded to cells, around a uniform centre and clipped to the grid.
    """
    which, quantile, *centre = random.uniform(count, 4).T
    if augmentation.mixup and augmentation.cutmix:
        cuts = which < 0.5
    else:
        cuts = np.full(count, bool(augmentation.cutmix))
    alpha = np.where(cuts, augmentation.cutmix, augmentation.mixup)
    share = betaincinv(alpha, alpha, quantile)
    inside = []
    for size, middle in zip(grid, centre, strict=True):
        side = np.rint(size * np.sqrt(1 - share))
        start = np.rint(size * middle - side / 2)
        cells = np.arange(size)
        inside.append((cells >= start[:, None]) & (cells < (start + side)[:, None]))
    boxes = inside[0][:, :, None] & inside[1][:, None, :]
    return np.where(cuts[:, None, None], ~boxes, share[:, None, None])


def draw_cells(
    augmentation: Augmentation, count: int, cells: int, random: Stream
) -> Int[Tensor, "b k"]:
    """Draw the cells that each sample keeps, all subsets of that size alike; at least one.

    Other cells are really left out, which PatchDropout (Liu et al., WACV 2023) and masked
    autoencoders gain their speed from.
    """
    kept = max(1, round(cells * (1 - augmentation.drop_tokens)))
    chosen = random.uniform(count, cells).argsort(axis=1, kind="stable")[:, :kept]
    return torch.from_numpy(np.sort(chosen, axis=1))


def augment(
    tokens: Float[Tensor, "b h w d"], targets: Float[Tensor, "b c"], drawn: Draw
) -> tuple[Float[Tensor, "b h w d"], Float[Tensor, "b c"]]:
    """Apply what was drawn for a batch, on the device that the batch is on.

    Tokens of samples that nothing moves keep every bit through the spatial operations. The tokens
    given are not changed. On one kind of device, and version of torch, the result is the same
    every time; noise differs between CPU and GPU, all else agrees within rounding.

    Args:
        tokens: feature maps, 16 or 32 bit; the result has their type.
        targets: one-hot, or any probabilities of the classes.
        drawn: of `draw` for this shape.

    Returns:
        The augmented tokens, and the targets as mixed as the tokens are.
    """
    settings, device = drawn.augmentation, tokens.device
    if drawn.matrices is not None and drawn.moves is not None:
        given = tokens
        tokens = resample(
            given,
            send(drawn.matrices, device),
            interpolation=settings.interpolation,
            padding=settings.padding,
        )
        still = send(torch.nonzero(~drawn.moves)[:, 0], device)
        tokens[still] = given[still]  # weights of 0 would spread infinities and lose signs of zero
    if drawn.shifts is not None:
        tokens = shift_channels(tokens, send(drawn.shifts, device))
    if settings.noise:
        tokens = _noisy(tokens, settings.noise, drawn.noise_seed)
    if drawn.partners is not None and drawn.keeps is not None:
        partners, keeps = send(drawn.partners, device), send(drawn.keeps, device)
        tokens = torch.lerp(tokens[partners], tokens, keeps[..., None].to(tokens.dtype))
        share = keeps.mean(dim=(1, 2))[:, None].to(targets.dtype)
        targets = torch.lerp(targets[partners], targets, share)
    return tokens, targets


def augment_embeddings(embeddings: Float[Tensor, "b e"], drawn: Draw) -> Float[Tensor, "b e"]:
    """Apply to the samples' embeddings what has a meaning for them: noise, and mixing.

    A sample keeps of its embedding the share that its feature map keeps of its cells.
    """
    if drawn.augmentation.noise:
        embeddings = _noisy(embeddings, drawn.augmentation.noise, drawn.embedding_noise_seed)
    if drawn.partners is not None and drawn.keeps is not None:
        partners, keeps = send(drawn.partners, embeddings.device), drawn.keeps.mean(dim=(1, 2))
        share = send(keeps, embeddings.device)[:, None].to(embeddings.dtype)
        embeddings = torch.lerp(embeddings[partners], embeddings, share)
    return embeddings


def shift_channels(
    tokens: Float[Tensor, "b h w d"], shifts: Float[Tensor, "b d"]
) -> Float[Tensor, "b h w d"]:
    """Shift each channel by a part of its range over the grid, and clip it to that range.

    The same as scaling to [0, 1], adding, clipping and scaling back (FroFA, section 3).
    """
    low, high = tokens.amin(dim=(1, 2), keepdim=True), tokens.amax(dim=(1, 2), keepdim=True)
    shift = shifts[:, None, None].to(tokens.dtype) * (high - low)
    return (tokens + shift).clamp(low, high)


def _noisy(values: Float[Tensor, "*shape"], deviation: float, seed: int) -> Float[Tensor, "*shape"]:
    generator = torch.Generator(values.device).manual_seed(seed)
    noise = torch.empty_like(values).normal_(generator=generator)
    return torch.add(values, noise, alpha=deviation)


def _seed_of(stream: Stream) -> int:
    return int(stream.words(1)[0] >> np.uint64(1))  # torch takes 63 bits
