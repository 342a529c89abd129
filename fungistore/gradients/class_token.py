"""The fast path: class-token pooling and the last block's attention output projection.

After the last attention only the class token can reach the embedding, so a view's gradient is
rank one, b [a, 1]^T. The trunk therefore ends in two vectors a view: the attended class token
`a` that enters the projection, and the residual stream beside it. What follows touches one token,
runs in float32, and is all that autograd ever sees.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fungistore.backbones.encoder import ClassTokenSplit, Encoder, TokenGrid, join_grids
from fungistore.gradients.batching import forward_size, samples_within
from fungistore.gradients.layers import gradient_shape, outer_products
from fungistore.gradients.tape import Chunks, Tape, flat_inputs, parts_of
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch


class ClassTokenPath:
    """Gradients of the last attention's output projection, of a model that pools its class token.

    Args:
        encoder: the model, its trunk prepared.
        split: the model cut at the target layer.
    """

    def __init__(self, encoder: Encoder, split: ClassTokenSplit) -> None:
        self._encoder = encoder
        self._split = split

    @property
    def gradient_shape(self) -> tuple[int, int]:
        """(out, in + 1), or (out, in) without a bias."""
        return gradient_shape(self._split.projection)

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
            embeddings = split.tail(residual, output)
        grid = join_grids(grids) if grids else None
        return Tape(
            embeddings,
            (entered,),
            (output,),
            outer_products(has_bias=projection.bias is not None),
            grid,
        )
