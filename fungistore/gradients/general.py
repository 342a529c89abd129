"""The general path: any linear layer, any pooling, any timm model; exact, and slower.

A forward hook cuts the graph at the target layer's output, so autograd still records nothing
before it; per-token gradients are contracted over tokens and views, never stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fungistore.backbones.backbone import Backbone, prepare_trunk
from fungistore.errors import UsageError
from fungistore.gradients.batching import forward_size
from fungistore.gradients.tape import Tape, Views
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch


class LayerPath:
    """Gradients of any `nn.Linear` of the model; takes the backbone over.

    Args:
        backbone: the model and its target layer; blocks before the target's are cast in place.
        dtype: precision of the blocks before the target's; the rest stays in float32.
        compiled: compile the blocks before the target's.
    """

    def __init__(self, backbone: Backbone, dtype: torch.dtype, *, compiled: bool = False) -> None:
        self._model = backbone.model
        self._target: nn.Linear = backbone.target
        self._grid = backbone
        self._dtype = torch.float32
        block = backbone.target_block
        if block is not None:
            self._dtype = prepare_trunk(backbone, block, dtype, compiled=compiled)
            self._model.blocks[block].register_forward_pre_hook(_to_float32, with_kwargs=True)

    @property
    def gradient_shape(self) -> tuple[int, int]:
        """(out, in + 1), or (out, in) without a bias."""
        return self._target.out_features, self._target.in_features + (self._target.bias is not None)

    def images_at_once(self, views: int, batch_size: int) -> int:
        """As many as keep all views, whose tokens autograd must hold, in one forward."""
        size = self._forward_size(self._grid.image_size) or batch_size
        return max(1, min(size, batch_size) // views)

    def record(self, views: Views, *, patches: bool = False, watch: Stopwatch = UNWATCHED) -> Tape:
        """Run whole forwards, cutting the graph at the target layer."""
        embeddings, inputs, outputs = [], [], []
        grid = None
        for chunk in self._in_forwards(views):
            calls: list[tuple[Tensor, Tensor]] = []

            def cut(module: nn.Module, entered: tuple[Tensor], output: Tensor) -> Tensor:
                leaf = output.detach().float().requires_grad_()
                calls.append((entered[0].detach().float(), leaf))  # noqa: B023 (called in this turn)
                return leaf

            handle = self._target.register_forward_hook(cut)
            try:
                with watch.stage("trunk"):
                    tokens = self._model.forward_features(chunk.flatten(0, 1).to(self._dtype))
                    embedding = self._model.forward_head(tokens)
            finally:
                handle.remove()
            if len(calls) != 1:
                raise UsageError(
                    "the target layer must run exactly once a forward",
                    where=f"--target-layer {self._grid.target_layer}",
                    expected="1 call",
                    found=f"{len(calls)} calls",
                    hint="choose another linear layer, such as the last block's attn.proj",
                )
            entered, output = calls[0]
            images, count = chunk.shape[:2]
            embeddings.append(embedding.float().unflatten(0, (images, count)))
            inputs.append(entered.reshape(images, -1, entered.shape[-1]))
            outputs.append(output)
            if patches and grid is None:
                grid = self._grid.to_grid(tokens.detach())
        has_bias = self._target.bias is not None
        tape = Tape(torch.cat(embeddings, dim=1), tuple(inputs), tuple(outputs), has_bias, grid)
        return tape

    def _in_forwards(self, views: Views) -> Views:
        for chunk in views:
            size = self._forward_size(chunk.shape[-1]) or chunk.shape[:2].numel()
            yield from chunk.split(max(1, size // len(chunk)), dim=1)

    def _forward_size(self, side: int) -> int | None:
        return forward_size(self._target.weight.device, side, self._grid.patch_size)


def _to_float32(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Raise what enters the first exact block to float32."""

    def raised(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(raised, args)), {key: raised(value) for key, value in kwargs.items()}
