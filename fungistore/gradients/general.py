"""The general path: any linear or convolution layer, any pooling, any encoder; exact, and slower.

The graph is cut at the first target layer's output, so autograd still records nothing before it;
per-token gradients are contracted over tokens and views, never stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from fungistore.backbones.encoder import Encoded, Encoder, TokenGrid, join_grids
from fungistore.errors import UsageError
from fungistore.gradients.batching import forward_size, samples_within
from fungistore.gradients.cutting import Calls, Cutter, target_modules
from fungistore.gradients.layers import contraction, gradient_shape
from fungistore.gradients.projection import UnitFactors
from fungistore.gradients.tape import Chunks, LayerTape, Tape, flat_inputs
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch
from fungistore.modalities.views import Inputs
from fungistore.quantities import counted

OTHER_LAYER = "choose another layer, such as the last block's attn.proj"


class LayerPath:
    """Gradients of any `nn.Linear` or `nn.Conv2d` of a model; also of losses of its tokens.

    A model without such a layer has no gradients: its tapes have embeddings and patches alone.

    Args:
        encoder: the model, its trunk prepared; from `exact_from` on, it stays in float32.
        layers: names of the target layers, none of which is before that; default: the encoder's.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[str] = ()) -> None:
        self._encoder = encoder
        self._layers = target_modules(encoder, layers)
        self._cutter = Cutter(self._layers)
        self._contracts = {name: contraction(layer) for name, layer in self._layers.items()}
        self._is_checked = not self._layers
        self._in_place: set[str] = set()
        if (module := encoder.exact_from) is not None:
            module.register_forward_pre_hook(_to_float32, with_kwargs=True)

    @property
    def gradient_shapes(self) -> tuple[tuple[int, int], ...]:
        """Of each layer (out, in + 1), or (out, in) without a bias; (0, 0) without any."""
        return tuple(map(gradient_shape, self._layers.values())) or ((0, 0),)

    def samples_at_once(
        self, views: int, batch_size: int, device: torch.device, tokens: int
    ) -> int:
        """As many as keep all views, whose tokens autograd must hold, in one forward."""
        size = forward_size(device, tokens) or batch_size
        return samples_within(size, views, batch_size)

    def record(
        self,
        chunks: Chunks,
        *,
        patches: bool = False,
        tokens: bool = False,
        watch: Stopwatch = UNWATCHED,
    ) -> Tape:
        """Run whole forwards, cutting the graph at the target layers.

        Raises:
            UsageError: a layer runs several times or not sample by sample, or the encoder has no
                tokens in places.
        """
        embeddings = []
        inputs: dict[str, list[Tensor]] = {name: [] for name in self._layers}
        outputs: dict[str, list[Tensor]] = {name: [] for name in self._layers}
        grids: list[TokenGrid] = []
        for chunk in self._in_forwards(chunks):
            with self._cutter.cut() as calls, watch.stage("trunk"):
                encoded = self._encoder.run(flat_inputs(chunk))
            self._refuse_repeated(calls)
            if torch.is_grad_enabled():
                self._refuse_unreached(encoded, calls)
                self._refuse_other_order(encoded, calls)
            samples, count = chunk[0].shape[:2]
            embeddings.append(encoded.embeddings.float().unflatten(0, (samples, count)))
            for name, ((entered, output),) in calls.items():
                inputs[name].append(self._by_sample(name, entered, samples, count))
                outputs[name].append(output)
            if tokens or (patches and not grids):
                grids.append(self._grid_of(encoded).unflatten(samples, count))
        return Tape(
            torch.cat(embeddings, dim=1),
            tuple(
                LayerTape(tuple(inputs[name]), tuple(outputs[name]), contract)
                for name, contract in self._contracts.items()
            ),
            _first_view(grids[0]) if patches else None,
            _by_shape(grids) if tokens else (),
        )

    def token_factors(self, tape: Tape, losses: Tensor, layer: int = 0) -> UnitFactors:
        """Return the gradient of each of a tape's tokens, as the factors of an outer product.

        Args:
            tape: as `record` returns it.
            losses: of its samples.
            layer: place of the layer among those of the path.

        Raises:
            UsageError: the layer is no linear one, or does not have its rows where tokens are.
        """
        (grid,) = tape.tokens
        tokens = grid.tokens.flatten(1, -2)
        name = list(self._layers)[layer]
        if name not in self._in_place:
            self._refuse_displaced(name, tape.layers[layer], tokens)
            self._in_place.add(name)
        back, entered = tape.token_gradients(losses, tokens.shape[1], layer)
        has_bias = self.gradient_shapes[layer][1] > entered.shape[2]
        return UnitFactors.of(back, entered, has_bias=has_bias)

    def _refuse_displaced(self, name: str, layer: LayerTape, tokens: Tensor) -> None:
        """Refuse a layer of another order than that of the tokens, such as one of windows.

        What a token depends on most must be its own row, behind those without places.
        """
        (output,), (entered,) = layer.outputs, layer.inputs
        count, is_linear = tokens.shape[1], isinstance(self._layers[name], nn.Linear)
        rows = entered.shape[1] if is_linear else 0
        if is_linear and rows >= count:
            place = min(count - 1, count // 2 + 1)
            # not its sum, which a norm makes constant
            uneven = torch.linspace(-1, 2, tokens.shape[2], device=tokens.device).square()
            asked = (tokens[0, place] * uneven).sum()
            (back,) = torch.autograd.grad(asked, (output,), retain_graph=True)
            back = back.reshape(*entered.shape[:2], -1)
            own = back[0].abs().sum(dim=1)
            if int(own.argmax()) == rows - count + place and not back[1:].any():
                return
        raise UsageError(
            "the target layer does not have one row for each token, in their order",
            where=f"--target-layer {name}",
            expected=f"a linear layer of {counted(count, 'token')}, those without places first",
            found=f"{counted(rows, 'row')} a sample"
            if is_linear
            else type(self._layers[name]).__name__,
            hint="gradients of tokens need a plain vision transformer, and such as its "
            "blocks.11.attn.proj",
        )

    def _in_forwards(self, chunks: Chunks) -> Iterator[Inputs]:
        for chunk in chunks:
            samples, views = chunk[0].shape[:2]
            tokens = self._encoder.count_tokens(flat_inputs(chunk))
            size = forward_size(chunk[0].device, tokens)
            count = max(1, (size or samples * views) // samples)
            yield from zip(*(tensor.split(count, dim=1) for tensor in chunk), strict=True)

    def _by_sample(self, name: str, entered: Tensor, samples: int, views: int) -> Tensor:
        if isinstance(self._layers[name], nn.Linear):
            return entered.reshape(samples, -1, entered.shape[-1])
        return entered.unflatten(0, (samples, views))

    def _refuse_repeated(self, calls: Mapping[str, Calls]) -> None:
        for name, found in calls.items():
            if len(found) != 1:
                raise UsageError(
                    "the target layer must run exactly once a forward",
                    where=f"--target-layer {name}",
                    expected="1 call",
                    found=f"{len(found)} calls",
                    hint=OTHER_LAYER,
                )

    def _refuse_unreached(self, encoded: Encoded, calls: Mapping[str, Calls]) -> None:
        """Refuse a layer that nothing comes back to; of several, each is asked for by itself."""
        if self._is_checked:
            return
        unreached = list(self._layers)
        if encoded.embeddings.requires_grad and len(unreached) > 1:
            outputs = [output for ((_, output),) in calls.values()]
            total = encoded.embeddings.float().sum()
            backs = torch.autograd.grad(total, outputs, retain_graph=True, allow_unused=True)
            unreached = [name for name, back in zip(calls, backs, strict=True) if back is None]
        elif encoded.embeddings.requires_grad:
            unreached = []
        if unreached:
            raise UsageError(
                "the embedding does not depend on the target layer",
                where=f"--target-layer {', '.join(unreached)}",
                expected="a layer between the input and the embedding",
                hint=OTHER_LAYER,
            )

    def _refuse_other_order(self, encoded: Encoded, calls: Mapping[str, Calls]) -> None:
        """Refuse what would be attributed to wrong samples, such as tokens before samples.

        The first view's embedding must depend on the first rows of the output alone. It is asked
        of one forward of several views: a model's layout does not change from one to the next.
        """
        views = len(encoded.embeddings)
        if self._is_checked or views == 1:
            return
        first = encoded.embeddings[0].float().sum()
        outputs = [output for ((_, output),) in calls.values()]
        backs = torch.autograd.grad(first, outputs, retain_graph=True)
        for (name, ((entered, _),)), back in zip(calls.items(), backs, strict=True):
            is_whole = len(entered) % views == 0 and len(back) % views == 0
            if not is_whole or back[len(back) // views :].any():
                raise UsageError(
                    "the target layer's inputs are not sample after sample",
                    where=f"--target-layer {name}",
                    expected=f"{views} views along the first dimension, each by itself",
                    found=f"an input of shape {list(entered.shape)}",
                    hint="choose another layer, or put samples before tokens (batch_first=True)",
                )
        self._is_checked = True

    def _grid_of(self, encoded: Encoded) -> TokenGrid:
        if encoded.grid is None:
            raise UsageError(
                "the model's tokens have no places in a grid",
                where=f"--model {self._encoder.name}",
                expected="features of embeddings alone",
                hint="leave out patches, and objectives of tokens",
            )
        return encoded.grid


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
