"""The general path: any linear layer, any pooling, any encoder; exact, and slower.

A forward hook cuts the graph at the target layer's output, so autograd still records nothing
before it; per-token gradients are contracted over tokens and views, never stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fungistore.backbones.encoder import Encoder, TokenGrid, join_grids
from fungistore.errors import UsageError
from fungistore.gradients.batching import forward_size
from fungistore.gradients.tape import Chunks, Tape, flat_inputs
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch
from fungistore.modalities.views import Inputs


class LayerPath:
    """Gradients of any `nn.Linear` of a model; also of losses of its tokens.

    Args:
        encoder: the model and its target layer, its trunk prepared; from `exact_from` on, it
            stays in float32.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._target = encoder.target
        if (module := encoder.exact_from) is not None:
            module.register_forward_pre_hook(_to_float32, with_kwargs=True)

    @property
    def gradient_shape(self) -> tuple[int, int]:
        """(out, in + 1), or (out, in) without a bias."""
        return self._target.out_features, self._target.in_features + (self._target.bias is not None)

    def samples_at_once(self, views: int, batch_size: int) -> int:
        """As many as keep all views, whose tokens autograd must hold, in one forward."""
        size = self._forward_size(prod(self._encoder.token_shape)) or batch_size
        return max(1, min(size, batch_size) // views)

    def record(
        self,
        chunks: Chunks,
        *,
        patches: bool = False,
        tokens: bool = False,
        watch: Stopwatch = UNWATCHED,
    ) -> Tape:
        """Run whole forwards, cutting the graph at the target layer."""
        embeddings, inputs, outputs = [], [], []
        grids: list[TokenGrid] = []
        for chunk in self._in_forwards(chunks):
            calls: list[tuple[Tensor, Tensor]] = []

            def cut(module: nn.Module, entered: tuple[Tensor], output: Tensor) -> Tensor:
                leaf = output.detach().float().requires_grad_()
                calls.append((entered[0].detach().float(), leaf))  # noqa: B023 (called in this turn)
                return leaf

            handle = self._target.register_forward_hook(cut)
            try:
                with watch.stage("trunk"):
                    encoded = self._encoder.run(flat_inputs(chunk))
            finally:
                handle.remove()
            if len(calls) != 1:
                raise UsageError(
                    "the target layer must run exactly once a forward",
                    where=f"--target-layer {self._encoder.target_layer}",
                    expected="1 call",
                    found=f"{len(calls)} calls",
                    hint="choose another linear layer, such as the last block's attn.proj",
                )
            entered, output = calls[0]
            samples, count = chunk[0].shape[:2]
            embeddings.append(encoded.embeddings.float().unflatten(0, (samples, count)))
            inputs.append(entered.reshape(samples, -1, entered.shape[-1]))
            outputs.append(output)
            if tokens or (patches and not grids):
                grids.append(encoded.grid.unflatten(samples, count))
        return Tape(
            torch.cat(embeddings, dim=1),
            tuple(inputs),
            tuple(outputs),
            self._target.bias is not None,
            _first_view(grids[0]) if patches else None,
            _by_shape(grids) if tokens else (),
        )

    def _in_forwards(self, chunks: Chunks) -> Iterator[Inputs]:
        for chunk in chunks:
            samples, views = chunk[0].shape[:2]
            size = self._forward_size(self._encoder.count_tokens(flat_inputs(chunk)))
            count = max(1, (size or samples * views) // samples)
            yield from zip(*(tensor.split(count, dim=1) for tensor in chunk), strict=True)

    def _forward_size(self, tokens: int) -> int | None:
        return forward_size(self._target.weight.device, tokens)


def _first_view(grid: TokenGrid) -> TokenGrid:
    mask = None if grid.mask is None else grid.mask[:, 0]
    return TokenGrid(grid.tokens[:, 0].detach(), mask)


def _by_shape(grids: list[TokenGrid]) -> tuple[TokenGrid, ...]:
    """Return one grid [b, v, *shape, d] for each run of views whose tokens have one shape."""
    runs = groupby(grids, key=lambda grid: grid.tokens.shape[2:])
    return tuple(join_grids(list(run), dim=1) for _, run in runs)


def _to_float32(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Raise what enters the first exact block to float32."""

    def raised(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(raised, args)), {key: raised(value) for key, value in kwargs.items()}
