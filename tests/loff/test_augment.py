"""Tensor augmentation against plain references: cell by cell in Python, torchvision, SciPy."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from fungistore.errors import UsageError
from fungistore.loff.augment import augment, draw, draw_keeps, draw_matrices, shift_channels
from fungistore.loff.operations import (
    ROTATION,
    SHEAR,
    SMALLEST_CROP,
    TRANSLATION,
    ZOOM,
    operation_matrices,
)
from fungistore.loff.options import OPERATIONS, Augmentation
from fungistore.loff.resample import resample
from fungistore.randomness import Stream

Array = NDArray[np.float64]
GRIDS = [(5, 7), (4, 4), (6, 3)]
INTERPOLATIONS = ["bilinear", "nearest"]
PADDINGS = ["zeros", "border", "reflection"]  # those of grid_sample
PLAIN = Augmentation(kind="trivial", noise=0.0)
ALL_ON = Augmentation(kind="trivial", brightness=0.3, mixup=0.4, cutmix=1.0)


def tokens_of(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def one_hot(count: int) -> Tensor:
    return torch.eye(count)


def source(operation: str, strength: float, anchor: Array, row: int, column: int, h: int, w: int):
    """The (row, column) of the input that an output cell shows, one operation at a time."""
    middle_row, middle_column = (h - 1) / 2, (w - 1) / 2
    up, left = row - middle_row, column - middle_column
    if operation == "hflip":
        return row, w - 1 - column
    if operation == "vflip":
        return h - 1 - row, column
    if operation == "translate-x":
        return row, column - strength * TRANSLATION * w
    if operation == "translate-y":
        return row - strength * TRANSLATION * h, column
    if operation == "shear-x":
        return row, column - strength * SHEAR * up
    if operation == "shear-y":
        return row - strength * SHEAR * left, column
    if operation == "rotate":  # in polar coordinates; y grows downwards
        radius, angle = math.hypot(up, left), math.atan2(up, left) - strength * ROTATION
        return middle_row + radius * math.sin(angle), middle_column + radius * math.cos(angle)
    if operation == "scale":
        zoom = math.exp(math.log(ZOOM) * strength)
        return middle_row + up / zoom, middle_column + left / zoom
    if operation == "crop":  # edges of cells: the window's first edge is at top, left
        side = 1 - abs(strength) * (1 - SMALLEST_CROP)
        top, first = anchor[1] * h * (1 - side), anchor[0] * w * (1 - side)
        return top + (row + 0.5) * side - 0.5, first + (column + 0.5) * side - 0.5
    return row, column


def fold(place: float, size: int, padding: str) -> float:
    """Bring a place into the grid, step by step."""
    if padding == "reflection":
        while not -0.5 <= place <= size - 0.5:
            place = -1 - place if place < -0.5 else 2 * size - 1 - place
    return min(max(place, 0), size - 1) if padding in ("border", "reflection") else place


def read(cells: Array, row: float, column: float, interpolation: str, padding: str) -> Array:
    """Read one place of one feature map, [h, w, d] -> [d]."""
    h, w, _ = cells.shape
    row, column = fold(row, h, padding), fold(column, w, padding)
    if interpolation == "nearest":
        places = [(math.floor(row + 0.5), math.floor(column + 0.5), 1.0)]
    else:
        places = [
            (r, c, (1 - abs(row - r)) * (1 - abs(column - c)))
            for r in (math.floor(row), math.floor(row) + 1)
            for c in (math.floor(column), math.floor(column) + 1)
        ]
    beyond = cells.mean(axis=(0, 1)) if padding == "mean" else np.zeros(cells.shape[2])
    return sum(
        weight * (cells[r, c] if 0 <= r < h and 0 <= c < w else beyond) for r, c, weight in places
    )


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("padding", [*PADDINGS, "mean"])
def test_an_operation_equals_the_reference_cell_by_cell(
    operation: str, interpolation: str, padding: str
) -> None:
    """Every operation, at several strengths, on grids that are not square."""
    strengths = np.array([-0.97, -0.37, 0.0, 0.21, 0.83])
    anchors = np.random.default_rng(1).random((len(strengths), 2))
    for h, w in GRIDS:
        tokens = tokens_of(len(strengths), h, w, 3)
        matrices = operation_matrices(operation, strengths, anchors, (h, w))
        found = resample(
            tokens,
            torch.from_numpy(matrices[:, :2].astype(np.float32)),
            interpolation=interpolation,
            padding=padding,
        )
        for sample, strength in enumerate(strengths.tolist()):
            expected = np.empty((h, w, 3))
            for row, column in np.ndindex(h, w):
                place = source(operation, strength, anchors[sample], row, column, h, w)
                expected[row, column] = read(
                    tokens[sample].double().numpy(), *place, interpolation, padding
                )
            assert np.allclose(found[sample], expected, atol=2e-5), (strength, h, w)


@given(
    numbers=st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6),
    grid=st.sampled_from(GRIDS),
    padding=st.sampled_from(PADDINGS),
)
@settings(max_examples=60, deadline=None)
def test_resampling_equals_torchs_grid_sample(
    numbers: list[float], grid: tuple[int, int], padding: str
) -> None:
    """Any affine map gives what affine grid_sample with align_corners=False gives."""
    h, w = grid
    tokens = tokens_of(1, h, w, 2, dtype=torch.float64)
    matrix = torch.tensor(numbers).view(1, 2, 3)
    row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    cells = torch.stack([column - (w - 1) / 2, row - (h - 1) / 2, torch.ones(h, w)], dim=-1)
    places = (cells.double() @ matrix[0].double().T) / torch.tensor([w / 2, h / 2])
    expected = functional.grid_sample(
        tokens.permute(0, 3, 1, 2), places[None], padding_mode=padding, align_corners=False
    )
    found = resample(tokens, matrix, padding=padding)
    assert torch.allclose(found, expected.permute(0, 2, 3, 1), atol=2e-5)


def test_directions_are_torchvisions() -> None:
    """Positive strengths rotate clockwise, move to the right and down, and enlarge."""
    tokens = tokens_of(1, 9, 9, 3)
    anchors = np.full((1, 2), 0.5)
    for operation, settings_there in {
        "rotate": {"angle": math.degrees(ROTATION) * 0.5},
        "translate-x": {"translate": [2, 0]},
        "translate-y": {"translate": [0, 2]},
        "scale": {"scale": ZOOM**0.5},
    }.items():
        strength = 2 / (9 * TRANSLATION) if operation.startswith("translate") else 0.5
        matrices = operation_matrices(operation, np.array([strength]), anchors, (9, 9))
        found = resample(tokens, torch.from_numpy(matrices[:, :2].astype(np.float32)))
        arguments = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0]}
        expected = tv.affine(
            tokens.permute(0, 3, 1, 2),
            **(arguments | settings_there),
            interpolation=InterpolationMode.BILINEAR,
        ).permute(0, 2, 3, 1)
        covered = found != 0  # torchvision's fill does not fade into the tokens at the border
        inner = covered & (expected != 0)
        inner[:, [0, -1]] = inner[:, :, [0, -1]] = False
        close = (found - expected).abs() < 1e-4
        assert close[inner].float().mean() > 0.9, operation


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_flips_are_exact(dtype: torch.dtype) -> None:
    """A flip is torch.flip, in every type and on every grid."""
    for h, w in GRIDS:
        tokens = tokens_of(4, h, w, 5, dtype=dtype)
        for operation, axis in (("hflip", 2), ("vflip", 1)):
            matrices = operation_matrices(operation, np.ones(4), np.zeros((4, 2)), (h, w))
            flipped = resample(tokens, torch.from_numpy(matrices[:, :2].astype(np.float32)))
            assert flipped.dtype == dtype
            assert torch.equal(flipped, tokens.flip(axis))


def test_samples_that_do_not_move_keep_every_bit() -> None:
    """Signs of zero, infinities and NaN come through, and the batch given is left alone."""
    tokens = tokens_of(64, 4, 4, 3, dtype=torch.float16)
    tokens[:, 0, 0, 0], tokens[:, 1, 1, 1], tokens[:, 2, 2, 2] = -0.0, math.inf, math.nan
    before = tokens.clone()
    drawn = draw(PLAIN, (64, 4, 4, 3), seed=0, epoch=0, step=0)
    augmented, targets = augment(tokens, one_hot(64), drawn)
    still = ~drawn.moves
    assert 0 < still.sum() < 20
    bits = torch.int16
    assert torch.equal(augmented[still].view(bits), before[still].view(bits))
    assert torch.equal(tokens.view(bits), before.view(bits))
    assert torch.equal(targets, one_hot(64))
    augmented, _ = augment(tokens, one_hot(64), replace(drawn, matrices=None, moves=None))
    assert torch.equal(augmented.view(bits), before.view(bits))


def test_a_list_of_operations_is_their_sequence_in_one_resample() -> None:
    """A flip and a translation by whole cells, composed, equal the one after the other."""
    grid, count = (14, 7), 40  # 1/7 of the grid is 2 and 1 cells
    spec = replace(PLAIN, kind="hflip,translate-x,vflip,translate-y")
    composed = draw_matrices(spec, count, grid, Stream(0, "list"))
    numbers = Stream(0, "list").uniform(count, 4, 4)
    tokens = tokens_of(count, *grid, 3)
    found = resample(tokens, torch.from_numpy(composed[:, :2].astype(np.float32)))
    expected = tokens
    for turn, operation in enumerate(spec.operations):
        strengths = 2 * numbers[:, turn, 1] - 1
        matrices = operation_matrices(operation, strengths, numbers[:, turn, 2:], grid)
        if "flip" in operation:
            matrices[strengths <= 0] = np.eye(3)
        one = torch.from_numpy(matrices[:, :2].astype(np.float32))
        expected = resample(expected, one)
    # between whole cells, zeros fade differently at each step: compare away from the border
    inner = (slice(None), slice(4, -4), slice(2, -2))
    assert torch.allclose(found[inner], expected[inner], atol=1e-5)
    whole = operation_matrices("hflip", np.ones(1), np.zeros((1, 2)), grid) @ operation_matrices(
        "translate-y", np.ones(1), np.zeros((1, 2)), grid
    )
    found = resample(tokens[:1], torch.from_numpy(whole[:, :2].astype(np.float32)))
    expected = torch.zeros_like(tokens[:1])
    expected[:, 2:] = tokens[:1].flip(2)[:, :-2]
    assert torch.equal(found, expected)


def test_a_flip_before_a_translation_is_not_a_flip_after_it() -> None:
    """Order in the list is order of application."""
    grid = (3, 7)
    ones, anchors = np.ones(1), np.zeros((1, 2))
    flip, move = (operation_matrices(o, ones, anchors, grid) for o in ("hflip", "translate-x"))
    tokens = tokens_of(1, *grid, 2)
    first = resample(tokens, torch.from_numpy((flip @ move)[:, :2].astype(np.float32)))
    assert torch.equal(first[:, :, 1:], tokens.flip(2)[:, :, :-1])
    last = resample(tokens, torch.from_numpy((move @ flip)[:, :2].astype(np.float32)))
    assert torch.equal(last[:, :, :-1], tokens.flip(2)[:, :, 1:])


def kind_of(matrix: Array) -> str:
    """Tell which operation a matrix belongs to, by the numbers that differ from the identity."""
    changed = {(int(r), int(c)) for r, c in np.argwhere(matrix[:2] != np.eye(3)[:2])}
    if matrix[0, 0] == -1 or matrix[1, 1] == -1:
        return "hflip" if matrix[0, 0] == -1 else "vflip"
    names = {
        frozenset(): "identity",
        frozenset({(0, 2)}): "translate-x",
        frozenset({(1, 2)}): "translate-y",
        frozenset({(0, 1)}): "shear-x",
        frozenset({(1, 0)}): "shear-y",
        frozenset({(0, 0), (1, 1)}): "scale",
        frozenset({(0, 0), (1, 1), (0, 1), (1, 0)}): "rotate",
        frozenset({(0, 0), (1, 1), (0, 2), (1, 2)}): "crop",
    }
    return names[frozenset(changed)]


def test_trivial_augment_draws_one_operation_uniformly_at_a_uniform_strength() -> None:
    """Chi-square over the operations; Kolmogorov-Smirnov of the strengths."""
    matrices = draw_matrices(PLAIN, 20_000, (8, 8), Stream(3, "trivial"))
    kinds = np.array([kind_of(matrix) for matrix in matrices])
    counts = [int((kinds == name).sum()) for name in OPERATIONS]
    assert stats.chisquare(counts).pvalue > 1e-3
    uniform = stats.uniform(-1, 2).cdf
    for name, entry, unit in (
        ("shear-x", (0, 1), -SHEAR),
        ("translate-y", (1, 2), -TRANSLATION * 8),
    ):
        strengths = matrices[(kinds == name, *entry)] / unit
        assert stats.kstest(strengths, uniform).pvalue > 1e-3
    rotations = matrices[kinds == "rotate"]
    angles = np.arctan2(rotations[:, 0, 1], rotations[:, 0, 0])
    assert stats.kstest(angles / ROTATION, uniform).pvalue > 1e-3


def test_strength_is_a_part_of_the_range() -> None:
    """At a tenth of the strength nothing shears by more than a tenth of the range."""
    spec = replace(PLAIN, kind="shear-x", strength=0.1)
    shears = np.abs(draw_matrices(spec, 1000, (8, 8), Stream(3, "weak"))[:, 0, 1])
    assert 0.09 * SHEAR < shears.max() <= 0.1 * SHEAR


def test_a_listed_flip_happens_half_of_the_time() -> None:
    """A list applies every operation, and a flip has no strength to be drawn."""
    matrices = draw_matrices(replace(PLAIN, kind="hflip"), 4000, (8, 8), Stream(3, "flips"))
    assert stats.binomtest(int((matrices[:, 0, 0] == -1).sum()), 4000).pvalue > 1e-3


def test_channel_brightness_is_frofas() -> None:
    """Scale to [0, 1] by the channel's range, add, clip, scale back; a flat channel stays."""
    tokens = tokens_of(3, 4, 5, 6) * torch.logspace(-2, 2, 6)
    tokens[..., 2] = 1.5
    shifts = tokens_of(3, 6, seed=1)
    found = shift_channels(tokens, shifts)
    for sample, channel in itertools.product(range(3), range(6)):
        values = tokens[sample, :, :, channel].double().numpy()
        low, span = values.min(), np.ptp(values)
        scaled = (values - low) / (span or 1)
        moved = np.clip(scaled + shifts[sample, channel].item(), 0, 1 if span else 0)
        assert np.allclose(found[sample, :, :, channel], moved * span + low, atol=1e-5)


def test_brightness_is_uniform_and_bounded() -> None:
    """Shifts are drawn for every channel of every sample from U(-d, d)."""
    spec = Augmentation(kind="none", noise=0.0, brightness=0.25)
    drawn = draw(spec, (40, 2, 2, 50), seed=0, epoch=0, step=0)
    assert drawn.matrices is None
    shifts = drawn.shifts.flatten().numpy()
    assert stats.kstest(shifts, stats.uniform(-0.25, 0.5).cdf).pvalue > 1e-3


def test_noise_is_gaussian_with_the_deviation_asked_for() -> None:
    """Noise is added to tokens, and is different at every step."""
    spec = Augmentation(kind="none", noise=0.2)
    tokens = tokens_of(8, 6, 6, 16)
    noises = [
        augment(tokens, one_hot(8), draw(spec, (8, 6, 6, 16), seed=0, epoch=0, step=step))[0]
        - tokens
        for step in range(2)
    ]
    for noise in noises:
        assert stats.kstest(noise.flatten().numpy(), stats.norm(0, 0.2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(noises[0].flatten(), noises[1].flatten())[0, 1]) < 0.05


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_mixed_as_the_tokens_are(mixup: float, cutmix: float) -> None:
    """With sample i full of the one-hot vector i, the mean over a grid is the target itself."""
    spec = Augmentation(kind="none", noise=0.0, mixup=mixup, cutmix=cutmix)
    count = 64
    tokens = one_hot(count)[:, None, None].expand(count, 5, 7, count).contiguous()
    drawn = draw(spec, (count, 5, 7, count), seed=0, epoch=0, step=0)
    mixed, targets = augment(tokens, one_hot(count), drawn)
    assert torch.allclose(targets.sum(dim=1), torch.ones(count), atol=1e-6)
    assert torch.allclose(mixed.mean(dim=(1, 2)), targets, atol=1e-6)
    assert ((targets > 0.001) & (targets < 0.999)).any()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_shares_are_beta_distributed(alpha: float) -> None:
    """One share a sample, the same for all of its cells, from Beta(alpha, alpha)."""
    spec = Augmentation(mixup=alpha)
    keeps = draw_keeps(spec, 2000, (3, 4), Stream(0, "mixup"))
    assert (keeps == keeps[:, :1, :1]).all()
    assert stats.kstest(keeps[:, 0, 0], stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_replaces_a_rectangle() -> None:
    """A box of cells is the partner's, all else one's own; boxes reach every cell alike."""
    keeps = draw_keeps(Augmentation(cutmix=1.0), 4000, (6, 9), Stream(0, "cutmix"))
    assert set(np.unique(keeps)) == {0.0, 1.0}
    for keep in keeps[:200]:
        rows, columns = np.nonzero(keep == 0)
        if len(rows):
            area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert area == len(rows)
    cut = 1 - keeps.mean(axis=0)
    assert cut.min() > 0.1
    assert np.allclose(cut, cut[::-1, ::-1], atol=0.03)  # no side is favoured


def test_mixup_and_cutmix_share_the_batch() -> None:
    """With both on, about half of the samples get each."""
    keeps = draw_keeps(Augmentation(mixup=1.0, cutmix=1.0), 2000, (6, 6), Stream(0, "both"))
    mixed = ((keeps > 0) & (keeps < 1)).all(axis=(1, 2)).sum()
    assert stats.binomtest(int(mixed), 2000).pvalue > 1e-3


def test_a_batch_is_decided_by_seed_epoch_and_step() -> None:
    """The same three give the same bits; each of them matters; torch's state is of no account."""
    shape = (16, 4, 4, 8)
    tokens, targets = tokens_of(*shape, dtype=torch.float16), one_hot(16)

    def run(seed: int, epoch: int, step: int) -> Tensor:
        return augment(tokens, targets, draw(ALL_ON, shape, seed=seed, epoch=epoch, step=step))[0]

    torch.manual_seed(1)
    np.random.seed(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = run(5, 2, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(2)
    assert torch.equal(run(5, 2, 3), first)
    for other in ((6, 2, 3), (5, 3, 2), (5, 2, 4), (5, 23, 3)):
        assert not torch.equal(run(*other), first)


def test_one_augmentation_does_not_change_the_draws_of_another() -> None:
    """Brightness, mixing and noise leave matrices alone; a smaller batch is a prefix."""
    shape = (16, 4, 4, 8)
    everything = draw(ALL_ON, shape, seed=1, epoch=0, step=0)
    spatial = draw(PLAIN, shape, seed=1, epoch=0, step=0)
    assert torch.equal(everything.matrices, spatial.matrices)
    bright = draw(Augmentation(kind="none", brightness=0.3), shape, seed=1, epoch=0, step=0)
    assert torch.equal(everything.shifts, bright.shifts)
    fewer = draw(ALL_ON, (10, 4, 4, 8), seed=1, epoch=0, step=0)
    assert torch.equal(everything.matrices[:10], fewer.matrices)
    assert torch.equal(everything.keeps[:10], fewer.keeps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_agree_with_thirty_two(dtype: torch.dtype) -> None:
    """The type is kept, and coordinates lose nothing to it."""
    shape = (32, 16, 16, 8)
    spec = replace(ALL_ON, noise=0.0)
    drawn = draw(spec, shape, seed=0, epoch=0, step=0)
    tokens = tokens_of(*shape, dtype=dtype)
    found, _ = augment(tokens, one_hot(32), drawn)
    expected, _ = augment(tokens.float(), one_hot(32), drawn)
    assert found.dtype == dtype
    precision = torch.finfo(dtype).eps
    assert (found.float() - expected).abs().max() < 12 * precision * tokens.abs().max()


def test_gradients_flow_through() -> None:
    """Autograd's gradient of the whole augmentation is the numerical one."""
    shape = (6, 3, 4, 2)
    drawn = draw(replace(ALL_ON, brightness=0.0), shape, seed=4, epoch=0, step=0)
    tokens = tokens_of(*shape, dtype=torch.float64).requires_grad_()
    assert drawn.moves.any()
    assert torch.autograd.gradcheck(
        lambda given: augment(given, one_hot(6), drawn)[0], tokens, fast_mode=True
    )


def test_tokens_may_be_a_view_of_another_layout() -> None:
    """A channels-first batch, permuted, gives what its contiguous copy gives."""
    tokens = tokens_of(8, 3, 5, 4).permute(0, 2, 3, 1)
    drawn = draw(PLAIN, (8, 5, 4, 3), seed=0, epoch=0, step=0)
    found, _ = augment(tokens, one_hot(8), drawn)
    expected, _ = augment(tokens.contiguous(), one_hot(8), drawn)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["none", "trivial", "hflip,rotate"])
def test_a_specification_goes_through_json(kind: str) -> None:
    """What is written is read back equal."""
    spec = Augmentation(kind=kind, noise=0.25, mixup=0.2, padding="reflection")
    assert Augmentation.from_config(json.loads(json.dumps(spec.to_config()))) == spec


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"kind": "twist"}, "--augment"),
        ({"kind": "hflip, rotate"}, "--augment"),
        ({"kind": ""}, "--augment"),
        ({"strength": 0}, "--strength"),
        ({"strength": 1.1}, "--strength"),
        ({"noise": -1}, "--noise"),
        ({"brightness": float("nan")}, "--brightness"),
        ({"mixup": float("inf")}, "--mixup"),
        ({"cutmix": "much"}, "--cutmix"),
        ({"padding": "wrap"}, "--padding"),
        ({"interpolation": "bicubic"}, "--interpolation"),
        ({"flips": True}, "flips"),
    ],
)
def test_unusable_settings_are_refused_by_name(config: dict[str, object], named: str) -> None:
    """The error is about usage, and says where."""
    with pytest.raises(UsageError) as error:
        Augmentation.from_config(config)
    assert error.value.where == named
    assert error.value.expected


def test_python_callers_get_the_same_refusals() -> None:
    """The constructor checks what the reader checks, values of the options included."""
    with pytest.raises(UsageError, match="cannot use this value of noise"):
        Augmentation(noise=-0.1)
    with pytest.raises(ValueError, match="unknown operation"):
        operation_matrices("twist", np.zeros(1), np.zeros((1, 2)), (2, 2))


def test_a_batchs_numbers_come_from_streams_that_are_named_here() -> None:
    """A run that an older version began goes on with the same numbers."""
    shape = (6, 4, 5, 3)
    drawn = draw(ALL_ON, shape, seed=9, epoch=2, step=4)

    def stream(purpose: str) -> Stream:
        return Stream(9, "augment", "2", "4", purpose)

    parts = 0.3 * (2 * stream("brightness").uniform(6, 3) - 1)
    assert torch.equal(drawn.shifts, torch.from_numpy(parts.astype(np.float32)))
    assert drawn.partners.tolist() == stream("partners").choice(6, 6).tolist()
    keeps = draw_keeps(ALL_ON, 6, (4, 5), stream("mixing"))
    assert torch.equal(drawn.keeps, torch.from_numpy(keeps.astype(np.float32)))
    matrices = draw_matrices(ALL_ON, 6, (4, 5), stream("spatial"))
    assert torch.equal(drawn.matrices, torch.from_numpy(matrices[:, :2].astype(np.float32)))
    assert drawn.moves.tolist() == [(one != np.eye(3)).any() for one in matrices]
    assert drawn.noise_seed == int(stream("noise").words(1)[0]) // 2
    nothing = draw(Augmentation(kind="none", noise=0.0), shape, seed=9, epoch=2, step=4)
    fields = (nothing.matrices, nothing.moves, nothing.shifts, nothing.partners, nothing.keeps)
    assert fields == (None,) * 5


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_a_box_of_cutmix_has_the_sides_and_the_place_of_the_paper(alpha: float) -> None:
    """sqrt(1 - share) of each side of the grid, around a uniform centre, clipped to the grid."""
    grid, count = (7, 4), 50
    keeps = draw_keeps(Augmentation(cutmix=alpha), count, grid, Stream(0, "box"))
    _, quantiles, *centres = Stream(0, "box").uniform(count, 4).T
    for sample in range(count):
        part = math.sqrt(1 - special.betaincinv(alpha, alpha, quantiles[sample]))
        expected = np.ones(grid)
        spans = []
        for size, centre in zip(grid, centres, strict=True):
            side = round(size * part)
            start = round(size * centre[sample] - side / 2)
            spans.append(slice(max(0, start), max(0, start + side)))
        expected[tuple(spans)] = 0
        assert np.array_equal(keeps[sample], expected)


def test_which_of_both_mixings_a_sample_gets_is_its_first_number() -> None:
    """Mixup keeps the quantile of Beta(alpha, alpha) of the second; CutMix has its own alpha."""
    both = Augmentation(mixup=0.4, cutmix=3.0)
    keeps = draw_keeps(both, 40, (3, 5), Stream(0, "both"))
    alone = draw_keeps(Augmentation(cutmix=3.0), 40, (3, 5), Stream(0, "both"))
    which, quantiles, *_ = Stream(0, "both").uniform(40, 4).T
    for sample in range(40):
        if which[sample] < 0.5:
            assert np.array_equal(keeps[sample], alone[sample])
        else:
            share = special.betaincinv(0.4, 0.4, quantiles[sample])
            np.testing.assert_allclose(keeps[sample], share, rtol=1e-12)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_batch_is_resampled_as_its_settings_say(interpolation: str, padding: str) -> None:
    spec = replace(PLAIN, kind="rotate,shear-x", interpolation=interpolation, padding=padding)
    tokens = tokens_of(8, 6, 5, 3)
    drawn = draw(spec, (8, 6, 5, 3), seed=1, epoch=0, step=0)
    found, _ = augment(tokens, one_hot(8), drawn)
    expected = resample(tokens, drawn.matrices, interpolation=interpolation, padding=padding)
    assert torch.equal(found, expected)


def test_the_ranges_are_trivial_augments() -> None:
    """Its "wide" space, table 1 of the paper; the range of zoom is ours."""
    found = (math.degrees(ROTATION), SHEAR, TRANSLATION * 224, ZOOM, SMALLEST_CROP)
    assert found == pytest.approx((135, 0.99, 32, 1.5, 0.5))
