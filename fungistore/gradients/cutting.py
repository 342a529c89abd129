"""Cuts a forward at target layers: autograd begins at their outputs, what enters them is kept.

A layer behind another one is no beginning: its output is part of the graph that the first one
began, so that one backward gives what comes back to all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import local

from torch import Tensor, nn

from fungistore.backbones.encoder import Encoder

Layer = nn.Linear | nn.Conv2d
Calls = list[tuple[Tensor, Tensor]]  # what entered and what left a layer, each time that it ran


def target_modules(encoder: Encoder, names: Sequence[str] = ()) -> dict[str, Layer]:
    """Return layers of an encoder by name; without names its own target layer, if it has one."""
    own, target = encoder.target_layer, encoder.target
    if own is None or target is None:
        return {}
    found = {}
    for name in names or (own,):
        layer = target if name == own else encoder.module.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)  # `target_layers` has checked it
        found[name] = layer
    return found


class Cutter:
    """Cuts the forwards of a thread at some layers, while it is asked to; thread-safe.

    Args:
        layers: by name; each gets a hook that does nothing at other times.
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._layers = layers
        for layer in layers.values():
            if _cut not in layer._forward_hooks.values():
                layer.register_forward_hook(_cut, with_kwargs=True)

    @contextmanager
    def cut(self) -> Iterator[dict[str, Calls]]:
        """Cut what runs meanwhile; give each layer's calls."""
        calls: dict[str, Calls] = {name: [] for name in self._layers}
        _CUTTING.calls = {layer: calls[name] for name, layer in self._layers.items()}
        try:
            yield calls
        finally:
            _CUTTING.calls = {}


class _Cutting(local):
    """The layers that are cut in this thread's forward, and their calls so far."""

    def __init__(self) -> None:
        self.calls: dict[nn.Module, Calls] = {}


_CUTTING = _Cutting()


def _cut(
    module: nn.Module, entered: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
) -> Tensor:
    """Hook: keep what enters and leaves the layer, and let autograd begin here at the latest.

    Copies, since the activations of convolutional networks overwrite what they are given.
    """
    calls = _CUTTING.calls.get(module)
    if calls is None:
        return output
    is_behind = output.requires_grad  # another layer that is cut: the model itself is frozen
    kept = output.float() if is_behind else output.detach().float().requires_grad_()
    given = entered[0] if entered else named["input"]
    calls.append((given.detach().float().clone(), kept))
    return kept.clone()
