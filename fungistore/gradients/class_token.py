"""The fast path: class-token pooling and the last block's attention output projection.

After the last attention only the class token can reach the embedding, so a view's gradient is
rank one, b [a, 1]^T. The trunk therefore ends in two vectors a view: the attended class token
`a` that enters the projection, and the residual stream beside it. What follows touches one token,
runs in float32, and is all that autograd ever sees. Linear layers of what follows, such as those of
the last block's perceptron, have gradients of rank one, too, and are served beside the projection.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fungistore.backbones.encoder import ClassTokenSplit, Encoder, TokenGrid, join_grids
from fungistore.errors import UsageError
from fungistore.gradients.batching import forward_size, samples_within
from fungistore.gradients.cutting import Cutter, Layer, target_modules
from fungistore.gradients.layers import gradient_shape, outer_products
from fungistore.gradients.tape import Chunks, LayerTape, Tape, flat_inputs, parts_of
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch
from fungistore.quantities import counted


class ClassTokenPath:
    """Gradients of the last attention's output projection, of a model that pools its class token.

    Args:
        encoder: the model, its trunk prepared; its target layer is that projection.
        split: the model cut there.
        layers: names of the target layers, none of which `refuse_unserved` refuses; default: that
            projection.
    """

    def __init__(
        self, encoder: Encoder, split: ClassTokenSplit, layers: Sequence[str] = ()
    ) -> None:
        self._encoder = encoder
        self._split = split
        self._layers = target_modules(encoder, layers)
        self._cutter = Cutter(_behind(split, self._layers))

    @property
    def gradient_shapes(self) -> tuple[tuple[int, int], ...]:
        """Of each layer (out, in + 1), or (out, in) without a bias."""
        return tuple(map(gradient_shape, self._layers.values()))

    def samples_at_once(
        self, views: int, batch_size: int, device: torch.device, tokens: int
    ) -> int:
        """All of them on a GPU: a view leaves only two vectors behind."""
        size = forward_size(device, tokens)
        return batch_size if size is None else samples_within(size, views, batch_size)

    def record(
        self, chunks: Chunks, *, patches: bool = False, watch: Stopwatch = UNWATCHED
    ) -> Tape:
        """Run the trunk without autograd, chunk by chunk, then the tail on all views at once."""
        split = self._split
        ends: list[Tensor] = []
        grids: list[TokenGrid] = []
        for chunk in chunks:
            with torch.no_grad(), watch.stage("trunk"):
                parts = []
                flat = flat_inputs(chunk)
                size = forward_size(chunk[0].device, self._encoder.count_tokens(flat))
                for part in parts_of(flat, size or len(flat[0])):
                    tokens = split.trunk(part)
                    parts.append(
                        torch.cat([split.attend(tokens, part), tokens[:, 0].float()], dim=1)
                    )
                    if patches and not ends:
                        grids.append(split.patches(tokens, part))
                ends.append(torch.cat(parts).unflatten(0, chunk[0].shape[:2]))
        with watch.stage("tail"):
            projection = split.projection
            entered, residual = torch.cat(ends, dim=1).tensor_split([projection.in_features], dim=2)
            output = projection(entered).detach().requires_grad_()
            with self._cutter.cut() as calls:
                embeddings = split.tail(residual, output)
        layers = []
        for name, layer in self._layers.items():
            given, left = (entered, output) if layer is projection else calls[name][0]
            given = given.reshape(*entered.shape[:2], -1)
            contract = outer_products(has_bias=layer.bias is not None)
            layers.append(LayerTape((given,), (left,), contract))
        return Tape(embeddings, tuple(layers), join_grids(grids) if grids else None)


def refuse_unserved(encoder: Encoder, split: ClassTokenSplit, layers: Sequence[str]) -> None:
    """Refuse layers that are neither the split's projection nor run once behind it.

    They are looked for in the tail of one view of zeros.

    Raises:
        UsageError: there are some.
    """
    behind = _behind(split, target_modules(encoder, layers))
    zeros = split.projection.weight.new_zeros(1, 1, split.projection.out_features)
    for name, layer in behind.items():
        with Cutter({name: layer}).cut() as calls, torch.enable_grad():
            embeddings = split.tail(zeros, zeros)
        is_linear = isinstance(layer, nn.Linear)
        if not (is_linear and len(calls[name]) == 1 and embeddings.requires_grad):
            raise UsageError(
                f"the layer cannot be differentiated beside {encoder.target_layer}",
                where=f"--target-layer {name}",
                expected="a linear layer between that and the embedding, or one of a block before",
                found=f"{type(layer).__name__}, {counted(len(calls[name]), 'call')} behind it",
                hint=f"give it a feature set of its own: --target-layer {name} --feature-set OTHER",
            )


def _behind(split: ClassTokenSplit, layers: dict[str, Layer]) -> dict[str, Layer]:
    return {name: layer for name, layer in layers.items() if layer is not split.projection}
