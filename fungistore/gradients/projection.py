"""Random projection of per-sample gradients, in blocks: the matrix never has to exist whole.

Source: FUNGI, section 3 and appendix (binary, gaussian and sparse projections). The paper cites
Li, Hastie and Church, "Very sparse random projections", KDD 2006, whose density falls with the
length of a gradient: "very-sparse" here. "sparse" is Achlioptas, "Database-friendly random
projections", 2003. One matrix is shared by all objectives; with a matrix for each, the paper's
authors saw worse features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fungistore.choices import ProjectionKind
from fungistore.fingerprint import digest_bytes
from fungistore.gradients.tensor_sketch import TensorSketch
from fungistore.machine.cores import ONE_CORE, Cores
from fungistore.randomness import Stream

BLOCK_COLUMNS = 4096  # part of the definition: each block of columns has its own random stream
BLOCKS_AT_ONCE = 8  # in one batched product: a single block would leave most of a GPU idle
MADE_AT_ONCE = 4  # groups of blocks, where none is kept: a core each, and their memory
CPU_TOKENS = 128  # whose outer products, in a stretch of 4096 columns, fit a core's cache
GPU_CELLS = 1 << 27  # numbers of such a stretch that a GPU holds
# That a CPU multiplies at once, filled up: last digits may depend on their number. With 16 the
# matrix was read from memory four times as often, and a row took twice as long.
CPU_ROWS = 64
CACHE_BYTES = 4 << 30  # blocks are kept when all of them fit in it, and made anew otherwise
SPARSE_DENSITY = 1 / 3  # Achlioptas, 2003: a third of the entries are not 0


@dataclass(frozen=True)
class ProjectionSpec:
    """Everything that defines a projection matrix R of shape [dim, columns].

    Attributes:
        kind: "binary" has entries +-1; "gaussian" standard normal ones; "sparse" +-sqrt(3) with
            probability 1/6 each and 0 otherwise; "very-sparse" +-columns^(1/4) with probability
            1 / (2 sqrt(columns)) each. All have unit variance. "tensorsketch" has one entry a
            column, +-sqrt(dim), so that outer products need not be formed.
        dim: number of rows, the width of a gradient feature.
        columns: length of a flattened gradient.
        seed: seed of the matrix.
        width: of a tensor sketch: numbers of a gradient's row, [out, width].
    """

    kind: ProjectionKind
    dim: int
    columns: int
    seed: int
    width: int = 1

    def block(self, index: int) -> NDArray[np.float32] | NDArray[np.int8]:
        """Return columns [index * 4096, ...) as [dim, up to 4096], the same on every machine."""
        columns = min(BLOCK_COLUMNS, self.columns - index * BLOCK_COLUMNS)
        if self.kind == "tensorsketch":
            start = index * BLOCK_COLUMNS
            return self.sketch.block(start, start + columns)
        stream = Stream(self.seed, "projection", self.kind, block=index)
        entries = self.dim * columns
        if self.kind == "binary":
            words = stream.words(-(-entries // 64)).astype("<u8", copy=False)
            bits = np.unpackbits(words.view(np.uint8), count=entries, bitorder="little")
            return (bits.view(np.int8) * 2 - 1).reshape(self.dim, columns)
        if self.kind == "gaussian":
            return stream.normal(self.dim, columns).astype(np.float32)
        density = SPARSE_DENSITY if self.kind == "sparse" else self.columns**-0.5
        draws = stream.uniform(self.dim, columns)
        signs = np.where(draws < density / 2, -1.0, 1.0) * (draws < density)
        return (signs * density**-0.5).astype(np.float32)

    @cached_property
    def sketch(self) -> TensorSketch:
        """What a tensor sketch does to the two factors of an outer product."""
        return TensorSketch.draw(self.seed, self.columns // self.width, self.width, self.dim)

    @property
    def scale(self) -> float:
        """What products with the blocks are multiplied by, so that lengths are kept on average."""
        return 1.0 if self.kind == "tensorsketch" else self.dim**-0.5

    @property
    def itemsize(self) -> int:
        """Bytes of an entry as it is generated."""
        return 1 if self.kind in ("binary", "tensorsketch") else 4

    @property
    def blocks(self) -> int:
        """Number of blocks of columns."""
        return -(-self.columns // BLOCK_COLUMNS)

    def digest(self) -> str:
        """Return a digest of the first block, which shows whether a generator has changed.

        Of a gaussian one, it is that of the random words: their logarithm's last bit differs
        between instruction sets, and a store is read on all of them.
        """
        if self.kind == "gaussian":
            stream = Stream(self.seed, "projection", self.kind)
            return digest_bytes(stream.words(self.dim * BLOCK_COLUMNS).astype("<u8").tobytes())
        return digest_bytes(self.block(0).tobytes())


class Projection:
    """Multiplies batches of flattened gradients by R / sqrt(dim), block by block.

    Args:
        spec: the matrix.
        dtype: precision of the products; sums over blocks are float32.
        device: where the products run.
        cache_bytes: keep the blocks on the device when they all fit in it, in `dtype` if possible.
    """

    def __init__(
        self,
        spec: ProjectionSpec,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.spec = spec
        self._dtype = dtype
        self._device = torch.device(device)
        entries = spec.dim * spec.columns
        self._keeps_products = entries * dtype.itemsize <= cache_bytes  # saves a cast a batch
        fits = self._keeps_products or entries * spec.itemsize <= cache_bytes
        self._kept: dict[int, Tensor] | None = {} if fits else None

    @property
    def cached_bytes(self) -> int:
        """Bytes of the blocks that are kept, once all are made."""
        if self._kept is None:
            return 0
        itemsize = self._dtype.itemsize if self._keeps_products else self.spec.itemsize
        return self.spec.dim * self.spec.columns * itemsize

    def __call__(
        self, gradients: Float[Tensor, "b m"], cores: Cores = ONE_CORE
    ) -> Float[Tensor, "b d"]:
        """Return float32 features; a row's scale carries over, so normalise tiny ones first."""
        count = len(gradients)
        rows = CPU_ROWS if self._device.type == "cpu" else max(1, count)
        low = gradients.to(self._dtype)
        if missing := -count % rows:
            low = nn.functional.pad(low, (0, 0, 0, missing))

        def product(group: tuple[int, int]) -> Tensor:
            first, last = group
            columns = low[:, first * BLOCK_COLUMNS : last * BLOCK_COLUMNS]
            parts = columns.unflatten(1, (last - first, -1)).transpose(0, 1).split(rows, dim=1)
            blocks = self._blocks(first, last).to(self._dtype)
            return torch.cat([(part @ blocks).sum(0, dtype=torch.float32) for part in parts])

        features = torch.zeros(len(low), self.spec.dim, device=self._device)
        groups = iter(self._groups())
        while some := list(islice(groups, None if self._kept is not None else MADE_AT_ONCE)):
            for part in cores.map(product, some):
                features += part
        return features[:count] * self.spec.scale

    def of_outer_products(
        self, left: Float[Tensor, "b t o"], right: Float[Tensor, "b t i"], cores: Cores = ONE_CORE
    ) -> Float[Tensor, "b t d"]:
        """Return float32 features of the flattened outer products of rows, sample by sample.

        Of these no more than a few tokens' stretch of columns exists at a time.
        """
        if self.spec.kind == "tensorsketch":
            pairs = zip(left, right, strict=True)
            return torch.stack(list(cores.map(lambda pair: self.spec.sketch(*pair), pairs)))
        low = list(zip(left.to(self._dtype), right.to(self._dtype), strict=True))
        features = torch.zeros(*left.shape[:2], self.spec.dim, device=self._device)
        groups = iter(self._groups())
        while some := list(islice(groups, None if self._kept is not None else MADE_AT_ONCE)):
            blocks = [(first, self._blocks(first, last)) for first, last in some]

            def product(factors: tuple[Tensor, Tensor]) -> Tensor:
                return self._outer_product(*factors, blocks)  # noqa: B023

            for feature, part in zip(features, cores.map(product, low), strict=True):
                feature += part
        return features * self.spec.scale

    def _outer_product(
        self,
        left: Float[Tensor, "t o"],
        right: Float[Tensor, "t i"],
        groups: list[tuple[int, Tensor]],
    ) -> Float[Tensor, "t d"]:
        """Return the part of one sample's features that some groups of blocks give."""
        made = torch.zeros(len(left), self.spec.dim, device=self._device)
        width = right.shape[1]
        if self._device.type == "cpu":
            tokens, joined = CPU_TOKENS, 1
        else:
            joined = BLOCKS_AT_ONCE
            tokens = max(1, GPU_CELLS // (joined * BLOCK_COLUMNS))
        for at in range(0, len(left), tokens):
            rows, columns = left[at : at + tokens], right[at : at + tokens]
            for first, blocks in groups:
                for index in range(0, len(blocks), joined):
                    matrix = blocks[index : index + joined].flatten(0, 1).to(self._dtype)
                    start = (first + index) * BLOCK_COLUMNS
                    top, bottom = start // width, -(-(start + len(matrix)) // width)
                    cells = (rows[:, top:bottom, None] * columns[:, None]).flatten(1)
                    cells = cells[:, start - top * width :][:, : len(matrix)]
                    made[at : at + tokens] += cells @ matrix
        return made

    def _groups(self) -> Iterator[tuple[int, int]]:
        """Yield (first, one past the last) of blocks that have the same number of columns."""
        whole = self.spec.columns // BLOCK_COLUMNS
        for first in range(0, whole, BLOCKS_AT_ONCE):
            yield first, min(first + BLOCKS_AT_ONCE, whole)
        if whole < self.spec.blocks:
            yield whole, whole + 1

    def _blocks(self, first: int, last: int) -> Tensor:
        """Return a group of blocks as [group, columns, dim], the layout that multiplies fastest."""
        if self._kept is not None and first in self._kept:
            return self._kept[first]
        made = np.stack([self.spec.block(index) for index in range(first, last)])
        blocks = torch.from_numpy(made).to(self._device).mT.contiguous()
        if self._keeps_products:
            blocks = blocks.to(self._dtype)
        if self._kept is not None:
            self._kept[first] = blocks
        return blocks


def projections_of(
    specs: Sequence[ProjectionSpec],
    *,
    dtype: torch.dtype,
    device: torch.device,
    cache_bytes: int,
) -> list[Projection]:
    """Return a projection for each target layer: equal ones are one, and all share the memory."""
    made: dict[ProjectionSpec, Projection] = {}
    for spec in dict.fromkeys(specs):
        left = cache_bytes - sum(other.cached_bytes for other in made.values())
        made[spec] = Projection(spec, dtype=dtype, device=device, cache_bytes=left)
    return [made[spec] for spec in specs]


class UnitRows(NamedTuple):
    """Rows of unit length, and the norms that they had."""

    rows: Float[Tensor, "b m"]
    norms: Float[Tensor, " b"]


def unit_rows(rows: Float[Tensor, "b ..."]) -> UnitRows:
    """Bring each row to unit length in float32; one of zeros stays so, one with NaN becomes NaN.

    A row is scaled by its largest entry first: squares of 1e-20 and of 1e20 are beyond float32.
    """
    flat, tiny = rows.flatten(1).float(), torch.finfo(torch.float32).tiny
    largest = torch.linalg.vector_norm(flat, ord=torch.inf, dim=1).clamp_min(tiny)
    unit = flat / largest[:, None]
    norms = unit.norm(dim=1)
    unit /= norms.clamp_min(tiny)[:, None]  # in place: rows are long, and memory is slow
    return UnitRows(unit, norms * largest)


@dataclass(frozen=True)
class UnitFactors:
    """Gradients b [a, 1]^T of tokens, of rank one: factors of unit length, and the norms.

    Attributes:
        left: [b, t, out], of what came back to the target layer's output.
        right: [b, t, in] or, with a bias, [b, t, in + 1], of what entered it.
        norms: [b, t], of the gradients: the product of the factors' norms.
    """

    left: Float[Tensor, "b t o"]
    right: Float[Tensor, "b t i"]
    norms: Float[Tensor, "b t"]

    @classmethod
    def of(
        cls, back: Float[Tensor, "b t o"], entered: Float[Tensor, "b t i"], *, has_bias: bool
    ) -> UnitFactors:
        """Return the factors of what came back for each token, and of what it entered with."""
        if has_bias:
            entered = torch.cat([entered, torch.ones_like(entered[..., :1])], dim=-1)
        left, right = unit_rows(back.flatten(0, 1)), unit_rows(entered.flatten(0, 1))
        shape = back.shape[:2]
        return cls(
            left.rows.unflatten(0, shape),
            right.rows.unflatten(0, shape),
            (left.norms * right.norms).unflatten(0, shape),
        )


def projected_factors(
    factors: UnitFactors, projection: Projection, cores: Cores = ONE_CORE
) -> Float[Tensor, "b t d"]:
    """Return the projected gradients of tokens, not normalised; see `unit_rows`."""
    unit = projection.of_outer_products(factors.left, factors.right, cores)
    return unit * factors.norms[..., None]


def normalized_projection(
    gradients: UnitRows, projection: Projection, cores: Cores = ONE_CORE
) -> UnitRows:
    """Return the unit vectors of the projected gradients, and their norms before normalisation.

    Gradients can be as small as 1e-10 (KL), so each was brought to unit length before it meets a
    low precision.
    """
    projected = unit_rows(projection(gradients.rows, cores))
    return UnitRows(projected.rows, projected.norms * gradients.norms)
