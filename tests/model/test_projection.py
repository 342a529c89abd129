"""The block-wise projection against the dense matrix that its blocks make up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fungistore.gradients.projection import (
    BLOCK_COLUMNS,
    BLOCKS_AT_ONCE,
    Projection,
    ProjectionKind,
    ProjectionSpec,
    normalized_projection,
    unit_rows,
)

KINDS: list[ProjectionKind] = ["binary", "gaussian", "sparse", "very-sparse"]
UNEVEN = 2 * BLOCK_COLUMNS + 1234
SEVERAL_GROUPS = (2 * BLOCKS_AT_ONCE + 3) * BLOCK_COLUMNS + 5
SIGMAS = 5  # statistical bounds; the seeds are fixed, so nothing here is left to chance

PINNED: dict[str, list[float]] = {
    "binary": [1, -1, 1, 1, 1, 1, -1, -1, 1, 1, 1, 1],
    "gaussian": [
        0.7397410869598389,
        0.7910515069961548,
        -2.1786556243896484,
        -0.6152454614639282,
        0.25056517124176025,
        -0.24204173684120178,
        0.2714768350124359,
        -1.0121853351593018,
        0.1529015302658081,
        -1.8598541021347046,
        -0.4416504204273224,
        -0.7376200556755066,
    ],
    "sparse": [
        1.7320507764816284,
        0.0,
        0.0,
        0.0,
        0.0,
        1.7320507764816284,
        0.0,
        -1.7320507764816284,
        0.0,
        0.0,
        -1.7320507764816284,
        0.0,
    ],
}

PLACES = [(0, 1622, -1.0), (0, 1967, 1.0), (0, 2246, -1.0), (0, 2669, -1.0), (0, 3159, 1.0)]


def dense(spec: ProjectionSpec) -> NDArray[np.float64]:
    """The whole matrix, [dim, columns]."""
    return np.concatenate([spec.block(i) for i in range(spec.blocks)], axis=1).astype(np.float64)


def gradients_of(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "columns",
    [1, 63, BLOCK_COLUMNS - 1, BLOCK_COLUMNS, BLOCK_COLUMNS + 1, UNEVEN, SEVERAL_GROUPS],
)
def test_blocks_multiply_as_the_dense_matrix_does(kind: ProjectionKind, columns: int) -> None:
    """R g / sqrt(dim) in float32 equals the dense float64 product, for any count of columns."""
    spec = ProjectionSpec(kind, 24, columns, seed=5)
    matrix = dense(spec)
    assert matrix.shape == (24, columns)
    gradients = gradients_of(3, columns)
    expected = gradients.double().numpy() @ matrix.T / math.sqrt(24)
    found = Projection(spec)(gradients).numpy()
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5 * math.sqrt(columns / 24)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_changes_nothing(kind: ProjectionKind, dtype: torch.dtype) -> None:
    """Blocks made anew each time give, bit for bit, what kept blocks give, call after call."""
    spec = ProjectionSpec(kind, 16, UNEVEN, seed=5)
    kept = Projection(spec, dtype=dtype, cache_bytes=1 << 30)
    made = Projection(spec, dtype=dtype, cache_bytes=0)
    for seed in range(3):
        gradients = gradients_of(4, UNEVEN, seed)
        assert torch.equal(kept(gradients), made(gradients))


def test_a_low_precision_product_keeps_the_direction() -> None:
    """In bfloat16 a feature has a cosine above 0.9999 with float32's."""
    spec = ProjectionSpec("binary", 64, UNEVEN, seed=5)
    gradients = gradients_of(4, UNEVEN)
    low = Projection(spec, dtype=torch.bfloat16)(gradients)
    assert low.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(low, Projection(spec)(gradients), dim=1)
    assert float(cosine.min()) > 0.9999


@pytest.mark.parametrize("kind", KINDS)
def test_entries_have_mean_zero_and_unit_variance(kind: ProjectionKind) -> None:
    """A block's mean is 0 and its variance 1, and so are those of its rows and columns."""
    block = ProjectionSpec(kind, 256, BLOCK_COLUMNS, seed=0).block(0).astype(np.float64)
    fourth = {"binary": 1.0, "gaussian": 3.0, "sparse": 3.0, "very-sparse": BLOCK_COLUMNS**0.5}[
        kind
    ]
    assert abs(block.mean()) < SIGMAS / math.sqrt(block.size)
    spread = math.sqrt(max(fourth - 1, 1e-12) / block.size)
    assert abs((block**2).mean() - 1) <= SIGMAS * spread
    assert np.abs(block.mean(axis=0)).max() < (SIGMAS + 1) / math.sqrt(256)
    assert np.abs(block.mean(axis=1)).max() < (SIGMAS + 1) / math.sqrt(BLOCK_COLUMNS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_columns_are_uncorrelated(kind: ProjectionKind) -> None:
    """No row of the matrix predicts another, within a block or from block to block."""
    spec = ProjectionSpec(kind, 64, 2 * BLOCK_COLUMNS, seed=0)
    sigmas = SIGMAS + (4 if kind == "very-sparse" else 1)  # few entries meet, and those are large
    for rows in (dense(spec), np.concatenate([spec.block(0), spec.block(1)]).astype(np.float64)):
        products = rows @ rows.T / rows.shape[1] - np.diag((rows**2).mean(axis=1))
        assert np.abs(products).max() < sigmas / math.sqrt(rows.shape[1])


def test_each_kind_has_its_own_values() -> None:
    """Binary entries are +-1 as int8; sparse ones +-sqrt(3), a sixth each, and otherwise 0."""
    binary = ProjectionSpec("binary", 64, BLOCK_COLUMNS, seed=0).block(0)
    assert binary.dtype == np.int8
    assert np.unique(binary).tolist() == [-1, 1]
    sparse = ProjectionSpec("sparse", 64, BLOCK_COLUMNS, seed=0).block(0)
    values, counts = np.unique(sparse, return_counts=True)
    assert values.tolist() == pytest.approx([-math.sqrt(3), 0, math.sqrt(3)])
    for count, p in zip(counts.tolist(), (1 / 6, 2 / 3, 1 / 6), strict=True):
        assert abs(count / sparse.size - p) < SIGMAS * math.sqrt(p * (1 - p) / sparse.size)
    gaussian = ProjectionSpec("gaussian", 64, BLOCK_COLUMNS, seed=0).block(0)
    assert gaussian.dtype == np.float32
    for bound in (1.0, 2.0, 3.0):
        p = math.erfc(bound / math.sqrt(2))
        error = SIGMAS * math.sqrt(p * (1 - p) / gaussian.size)
        assert abs((np.abs(gaussian) > bound).mean() - p) < error


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_follow_from_the_seed(kind: ProjectionKind) -> None:
    """The same seed gives the same blocks; another seed, kind or index gives others."""
    spec = ProjectionSpec(kind, 8, UNEVEN, seed=1)
    twin = ProjectionSpec(kind, 8, UNEVEN, seed=1)
    assert all(np.array_equal(spec.block(i), twin.block(i)) for i in range(spec.blocks))
    assert spec.digest() == twin.digest()
    others = [ProjectionSpec(other, 8, UNEVEN, seed=1) for other in KINDS if other != kind]
    others.append(ProjectionSpec(kind, 8, UNEVEN, seed=2))
    for other in others:
        assert other.digest() != spec.digest()
        assert abs(np.corrcoef(other.block(0).ravel(), spec.block(0).ravel())[0, 1]) < 0.03
    assert not np.array_equal(spec.block(0), spec.block(1))


def test_a_longer_gradient_begins_with_the_same_whole_blocks() -> None:
    """A whole block does not depend on how many columns come after it."""
    short = ProjectionSpec("binary", 8, 2 * BLOCK_COLUMNS, seed=1)
    assert np.array_equal(short.block(1), ProjectionSpec("binary", 8, UNEVEN, seed=1).block(1))
    assert ProjectionSpec("binary", 8, UNEVEN, seed=1).block(2).shape == (8, 1234)


@pytest.mark.parametrize("columns", [4, 5000, 590_592])
def test_very_sparse_entries_are_as_rare_and_large_as_their_paper_says(columns: int) -> None:
    """Li, Hastie and Church: +-m^(1/4) with probability 1/(2 sqrt(m)), of all m columns."""
    block = ProjectionSpec("very-sparse", 96, columns, seed=0).block(0)
    values, counts = np.unique(block, return_counts=True)
    expected = {-(columns**0.25): 0.5, 0.0: columns**0.5 - 1, columns**0.25: 0.5}
    assert values.tolist() == pytest.approx(list(expected))
    for count, share in zip(counts.tolist(), expected.values(), strict=True):
        p = share / columns**0.5
        assert abs(count / block.size - p) < SIGMAS * math.sqrt(p * (1 - p) / block.size)


def test_very_sparse_places_are_pinned() -> None:
    """Rows, columns and signs of the first of them, as stores have them."""
    block = ProjectionSpec("very-sparse", 4, 590_592, seed=42).block(0)
    rows, columns = np.nonzero(block)
    signs = np.sign(block[rows, columns]).tolist()
    assert list(zip(rows.tolist(), columns.tolist(), signs, strict=True))[:5] == PLACES


@pytest.mark.parametrize("kind", PINNED)
def test_entries_are_pinned(kind: ProjectionKind) -> None:
    """The matrix is part of every store's meaning: a change of generator must not go unnoticed."""
    block = ProjectionSpec(kind, 4, 590_592, seed=42).block(0)
    entries = [*block[0, :8].tolist(), *block[3, -4:].tolist()]
    assert entries == pytest.approx(PINNED[kind], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiny_gradients_keep_their_direction_and_their_norm(
    scale: float, dtype: torch.dtype
) -> None:
    """Gradients of 1e-30 give the same unit vectors as large ones, and norms in proportion."""
    spec = ProjectionSpec("binary", 32, 64 * 65, seed=5)
    projection = Projection(spec, dtype=dtype)
    gradients = gradients_of(5, 64 * 65).reshape(5, 64, 65)
    unit, norm = normalized_projection(unit_rows(gradients), projection)
    tiny, tiny_norm = normalized_projection(unit_rows(gradients * scale), projection)
    assert torch.allclose(unit.norm(dim=1), torch.ones(5), atol=1e-6)
    # the unit gradient may fall on the other side of a bfloat16 rounding
    assert float((tiny - unit).abs().max()) < (1e-6 if dtype == torch.float32 else 1e-3)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-3
    assert torch.allclose(tiny_norm, norm * scale, rtol=tolerance, atol=0)
    assert tiny_norm.dtype == tiny.dtype == torch.float32


def test_norms_are_those_of_the_projected_gradient() -> None:
    """The norm is |R g| / sqrt(dim), so unit vector times norm is the feature itself."""
    spec = ProjectionSpec("gaussian", 32, 64 * 65, seed=5)
    gradients = 1e-10 * gradients_of(3, 64 * 65)
    unit, norm = normalized_projection(unit_rows(gradients.reshape(3, 64, 65)), Projection(spec))
    expected = gradients.double().numpy() @ dense(spec).T / math.sqrt(32)
    feature = (unit.double() * norm.double()[:, None]).numpy()
    assert np.allclose(feature, expected, rtol=1e-4, atol=1e-14)


def test_a_zero_gradient_gives_a_zero_vector() -> None:
    """A sample without any gradient has a zero feature and a zero norm, and spoils no neighbour."""
    projection = Projection(ProjectionSpec("binary", 16, 40, seed=5))
    gradients = gradients_of(3, 40).reshape(3, 8, 5)
    expected, _ = normalized_projection(unit_rows(gradients), projection)
    gradients[1] = 0
    unit, norm = normalized_projection(unit_rows(gradients), projection)
    assert unit[1].tolist() == [0.0] * 16
    assert float(norm[1]) == 0
    assert torch.equal(unit[[0, 2]], expected[[0, 2]])


def test_a_gradient_with_nan_stays_nan_and_alone() -> None:
    """NaN is kept for the caller to count, in its own row only."""
    projection = Projection(ProjectionSpec("binary", 16, 40, seed=5))
    gradients = gradients_of(3, 40).reshape(3, 8, 5)
    gradients[1, 2, 3] = torch.nan
    unit, norm = normalized_projection(unit_rows(gradients), projection)
    assert norm.isnan().tolist() == [False, True, False]
    assert unit.isnan().any(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_projections_preserve_inner_products(kind: ProjectionKind) -> None:
    """Lengths and cosines survive to within a few 1/sqrt(dim) (Johnson and Lindenstrauss)."""
    dim = 1024
    projection = Projection(ProjectionSpec(kind, dim, UNEVEN, seed=5))
    base = gradients_of(1, UNEVEN)
    mixed = torch.cat([base, base + 0.5 * gradients_of(7, UNEVEN, 1)])
    unit = torch.nn.functional.normalize(mixed, dim=1)
    before = unit @ unit.T
    features = projection(unit)
    assert float((features @ features.T - before).abs().max()) < SIGMAS / math.sqrt(dim)
    assert float(before.min()) > 0.7


def test_products_of_a_low_precision_are_summed_in_float32() -> None:
    """Of blocks in one group: bfloat16 sums would lose what the second block adds."""
    spec = ProjectionSpec("binary", 4, 2 * BLOCK_COLUMNS, seed=1)
    gradients = torch.zeros(1, spec.columns)
    gradients[:, 0], gradients[:, BLOCK_COLUMNS] = 256.0, 1.0
    found = Projection(spec, dtype=torch.bfloat16)(gradients)
    first, second = (torch.from_numpy(spec.block(n)[:, 0].astype(np.float32)) for n in (0, 1))
    assert torch.equal(found[0], (256 * first + second) / 2)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
def test_a_row_with_zeros_in_it_is_scaled_by_its_largest_entry(scale: float) -> None:
    """Squares of 1e25 are infinite in float32, those of 1e-30 are zero: the direction stays."""
    rows = torch.tensor([[3.0, 0.0, -4.0], [0.0, -5.0, 12.0]])
    found = unit_rows(scale * rows)
    torch.testing.assert_close(found.rows, rows / torch.tensor([[5.0], [13.0]]))
    torch.testing.assert_close(found.norms / scale, torch.tensor([5.0, 13.0]))
