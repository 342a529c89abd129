"""Random projection of per-sample gradients, in blocks: the matrix never has to exist whole.

Source: FUNGI, section 3 and appendix (binary, gaussian and sparse projections). One matrix is
shared by all objectives; with a matrix for each, the paper's authors saw worse features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fungistore.choices import ProjectionKind
from fungistore.fingerprint import digest_bytes
from fungistore.machine.cores import ONE_CORE, Cores
from fungistore.randomness import Stream

BLOCK_COLUMNS = 4096  # part of the definition: each block of columns has its own random stream
BLOCKS_AT_ONCE = 8  # in one batched product: a single block would leave most of a GPU idle
MADE_AT_ONCE = 4  # groups of blocks, where none is kept: a core each, and their memory
CPU_ROWS = 16  # that a CPU multiplies at once, filled up: last digits may depend on their number
CACHE_BYTES = 4 << 30  # blocks are kept when all of them fit in it, and made anew otherwise
SPARSE_DENSITY = 1 / 3  # Achlioptas, "Database-friendly random projections", 2003


@dataclass(frozen=True)
class ProjectionSpec:
    """Everything that defines a projection matrix R of shape [dim, columns].

    Attributes:
        kind: "binary" has entries +-1; "gaussian" standard normal ones; "sparse" +-sqrt(3) with
            probability 1/6 each and 0 otherwise. All have unit variance.
        dim: number of rows, the width of a gradient feature.
        columns: length of a flattened gradient.
        seed: seed of the matrix.
    """

    kind: ProjectionKind
    dim: int
    columns: int
    seed: int

    def block(self, index: int) -> NDArray[np.float32] | NDArray[np.int8]:
        """Return columns [index * 4096, ...) as [dim, up to 4096], the same on every machine."""
        columns = min(BLOCK_COLUMNS, self.columns - index * BLOCK_COLUMNS)
        stream = Stream(self.seed, "projection", self.kind, block=index)
        entries = self.dim * columns
        if self.kind == "binary":
            words = stream.words(-(-entries // 64)).astype("<u8", copy=False)
            bits = np.unpackbits(words.view(np.uint8), count=entries, bitorder="little")
            return (bits.view(np.int8) * 2 - 1).reshape(self.dim, columns)
        if self.kind == "gaussian":
            return stream.normal(self.dim, columns).astype(np.float32)
        draws = stream.uniform(self.dim, columns)
        signs = np.where(draws < SPARSE_DENSITY / 2, -1.0, 1.0) * (draws < SPARSE_DENSITY)
        return (signs * SPARSE_DENSITY**-0.5).astype(np.float32)

    @property
    def itemsize(self) -> int:
        """Bytes of an entry as it is generated."""
        return 1 if self.kind == "binary" else 4

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

    def __call__(
        self, gradients: Float[Tensor, "b m"], cores: Cores = ONE_CORE
    ) -> Float[Tensor, "b d"]:
        """Return float32 features; a row's scale carries over, so normalise tiny ones first."""
        count = len(gradients)
        rows = CPU_ROWS if self._device.type == "cpu" else max(1, count)
        low = nn.functional.pad(gradients.to(self._dtype), (0, 0, 0, -count % rows))

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
        return features[:count] * self.spec.dim**-0.5

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


class UnitRows(NamedTuple):
    """Rows of unit length, and the norms that they had."""

    rows: Float[Tensor, "b m"]
    norms: Float[Tensor, " b"]


def unit_rows(rows: Float[Tensor, "b ..."]) -> UnitRows:
    """Bring each row to unit length in float32; one of zeros stays so, one with NaN becomes NaN.

    A row is scaled by its largest entry first: squares of 1e-20 and of 1e20 are beyond float32.
    """
    flat, tiny = rows.flatten(1).float(), torch.finfo(torch.float32).tiny
    largest = flat.abs().amax(dim=1)
    scaled = flat / largest.clamp_min(tiny)[:, None]
    norms = scaled.norm(dim=1)
    return UnitRows(scaled / norms.clamp_min(tiny)[:, None], norms * largest.clamp_min(tiny))


def normalized_projection(
    gradients: UnitRows, projection: Projection, cores: Cores = ONE_CORE
) -> UnitRows:
    """Return the unit vectors of the projected gradients, and their norms before normalisation.

    Gradients can be as small as 1e-10 (KL), so each was brought to unit length before it meets a
    low precision.
    """
    projected = unit_rows(projection(gradients.rows, cores))
    return UnitRows(projected.rows, projected.norms * gradients.norms)
