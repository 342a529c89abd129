"""TensorSketch: a random projection of outer products that never forms them.

Source: Pham and Pagh, "Fast and scalable polynomial kernels via explicit feature maps", KDD 2013.
The count sketch of b [a, 1]^T whose bucket is the sum of the factors' buckets, and whose sign the
product of their signs, is the circular convolution of the factors' own count sketches. Inner
products of sketches are unbiased. It is a linear map of the whole gradient like any other
projection here: a matrix with one entry a column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fungistore.randomness import Stream


@dataclass(frozen=True)
class CountSketch:
    """Where each number of a vector goes, and its sign.

    Attributes:
        buckets: [n], below `dim`.
        signs: [n], +-1.
        dim: number of buckets.
    """

    buckets: NDArray[np.int64]
    signs: NDArray[np.float32]
    dim: int

    @classmethod
    def draw(cls, seed: int, side: str, length: int, dim: int) -> CountSketch:
        """Draw the sketch of one side of an outer product."""
        stream = Stream(seed, "projection", "tensorsketch", side)
        words = stream.words(length)
        return cls(
            (words >> np.uint64(1)).astype(np.int64) % dim,
            (1 - 2 * (words & np.uint64(1)).astype(np.float32)),
            dim,
        )

    def __call__(self, rows: Float[Tensor, "n i"]) -> Float[Tensor, "n d"]:
        """Return the sketches of some rows, in float32."""
        signed = rows.float() * torch.from_numpy(self.signs).to(rows.device)
        sums = signed.new_zeros(len(rows), self.dim)
        return sums.index_add_(1, torch.from_numpy(self.buckets).to(rows.device), signed)


@dataclass(frozen=True)
class TensorSketch:
    """The sketches of both sides of gradients [out, columns / out] of a linear layer."""

    left: CountSketch
    right: CountSketch

    @classmethod
    def draw(cls, seed: int, out: int, width: int, dim: int) -> TensorSketch:
        """Draw it; equal arguments give the same one on every machine."""
        return cls(
            CountSketch.draw(seed, "left", out, dim), CountSketch.draw(seed, "right", width, dim)
        )

    def block(self, start: int, stop: int) -> NDArray[np.int8]:
        """Return columns [start, stop) of the matrix, [dim, stop - start]: one entry in each."""
        row, column = np.divmod(np.arange(start, stop), len(self.right.buckets))
        bucket = (self.left.buckets[row] + self.right.buckets[column]) % self.left.dim
        block = np.zeros((self.left.dim, stop - start), np.int8)
        signs = self.left.signs[row] * self.right.signs[column]
        block[bucket, np.arange(stop - start)] = signs.astype(np.int8)
        return block

    def __call__(
        self, left: Float[Tensor, "n o"], right: Float[Tensor, "n i"]
    ) -> Float[Tensor, "n d"]:
        """Return the sketches of the outer products of rows."""
        product = torch.fft.rfft(self.left(left)) * torch.fft.rfft(self.right(right))
        return torch.fft.irfft(product, n=self.left.dim)
