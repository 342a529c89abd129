"""A head's step in pieces of its batch, one thread each: no number of threads changes a bit.

torch divides products and sums by its number of threads, and with them the order in which numbers
are added. How a batch is cut follows from the batch alone, and gradients are added piece by piece.
On a GPU a batch is one piece.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from timm.layers import DropPath
from torch import Tensor, nn

from fungistore.loff.head import Head
from fungistore.machine.cores import Cores


@dataclass(frozen=True)
class Inputs:
    """What `Head.classify` takes of some samples.

    Attributes:
        features: standardised, and augmented.
        embedding: of the same samples, or None.
        cells: those that are looked at; None: all.
    """

    features: Float[Tensor, "b *grid d"]
    embedding: Float[Tensor, "b e"] | None = None
    cells: Int[Tensor, "b k"] | None = None

    def pieces(self, cells: int) -> list[slice]:
        """Return the samples of each piece, which has so many cells or more."""
        count, own = len(self.features), self.features[0, ..., 0].numel()
        step = -(-cells // own)
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def part(self, piece: slice) -> Inputs:
        """Return what there is of some samples."""
        embedding = None if self.embedding is None else self.embedding[piece]
        cells = None if self.cells is None else self.cells[piece]
        return Inputs(self.features[piece], embedding, cells)


class PiecewiseHead:
    """A head in training on a CPU, and its twins: one for each core, with the same parameters.

    Args:
        head: it is trained, and stays where it is.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._twins: list[_Twin] = []

    def gradients(
        self,
        inputs: Inputs,
        loss: Callable[[Tensor], Tensor],
        seeds: Sequence[int],
        dtype: torch.dtype,
        cores: Cores,
    ) -> Tensor:
        """Give the head's parameters their gradients, and return the loss.

        Args:
            inputs: of the batch.
            loss: of all logits.
            seeds: by which each piece is dropped out.
            dtype: of matrix products.
            cores: that pieces are spread over.
        """
        pieces = inputs.pieces(self._head.piece_cells)

        def forward(number: int) -> Tensor:
            with self._twin() as twin:
                return twin.logits(inputs.part(pieces[number]), seeds[number], dtype)

        parts = list(cores.map(forward, range(len(pieces))))
        logits = torch.cat([part.detach() for part in parts]).requires_grad_()
        value = loss(logits)
        (slopes,) = torch.autograd.grad(value, logits)
        trained = [one for one in self._head.parameters() if one.requires_grad]

        def backward(number: int) -> Sequence[Tensor | None]:
            given = slopes[pieces[number]]
            return torch.autograd.grad(parts[number], trained, given, allow_unused=True)

        for start in range(0, len(pieces), cores.count):  # so that few gradients wait to be added
            some = range(start, min(start + cores.count, len(pieces)))
            for found in cores.map(backward, some):
                for parameter, gradient in zip(trained, found, strict=True):
                    if parameter.grad is None:
                        parameter.grad = gradient
                    elif gradient is not None:
                        parameter.grad.add_(gradient)
        return value.detach()

    @contextmanager
    def _twin(self) -> Iterator[_Twin]:
        """Yield a twin that no other thread has meanwhile."""
        try:
            twin = self._twins.pop()
        except IndexError:
            twin = _Twin(self._head)
        yield twin
        self._twins.append(twin)


class _Twin:
    """A head's modules once more, with the same parameters, that draw from a generator of its own.

    torch's generator is the whole process's: threads would take turns at it in any order.
    """

    def __init__(self, head: Head) -> None:
        shared = {id(one): one for one in (*head.parameters(), *head.buffers())}
        self._head: Head = copy.deepcopy(head, shared).train()
        self._generator = torch.Generator()
        for module in list(self._head.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout) and child.p:
                    setattr(module, name, _Drop(child.p, self._generator, is_whole=False))
                elif isinstance(child, DropPath) and child.drop_prob:
                    setattr(module, name, _Drop(child.drop_prob, self._generator, is_whole=True))

    def logits(self, inputs: Inputs, seed: int, dtype: torch.dtype) -> Tensor:
        """Return the logits of a piece."""
        self._generator.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
            return self._head.classify(inputs.features, inputs.embedding, inputs.cells)


class _Drop(nn.Module):
    """Dropout of numbers, or of whole samples, by a given generator; what is left is scaled."""

    def __init__(self, chance: float, generator: torch.Generator, *, is_whole: bool) -> None:
        super().__init__()
        self._kept = 1 - chance
        self._generator = generator
        self._is_whole = is_whole

    def forward(self, x: Tensor) -> Tensor:
        shape = (len(x), *(1,) * (x.ndim - 1)) if self._is_whole else x.shape
        mask = torch.empty(shape, dtype=x.dtype).bernoulli_(self._kept, generator=self._generator)
        return x * mask.div_(self._kept)
