"""From a batch of drawn items to the features of one pass: the model side, put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fungistore.backbones.encoder import Encoder
from fungistore.extraction.batches import BatchViews, DrawnGroup, Slice, in_runs, joined
from fungistore.extraction.drawing import Drawer
from fungistore.extraction.grids import stored_gradients, stored_grid
from fungistore.extraction.passes import Pass, divided
from fungistore.extraction.support import Support
from fungistore.gradients.general import LayerPath
from fungistore.gradients.projection import (
    Projection,
    UnitFactors,
    UnitRows,
    normalized_projection,
    projected_factors,
    unit_rows,
)
from fungistore.gradients.tape import GradientPath, Tape, flat_inputs
from fungistore.machine.context import QUIET, Context
from fungistore.machine.cores import ONE_CORE, Cores, one_thread_each
from fungistore.machine.device import explain_full_memory
from fungistore.machine.precision import OnGpu, float32_products, plain_modes
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch, shared
from fungistore.machine.transfer import send, start_fetch
from fungistore.modalities.modality import find_modality
from fungistore.modalities.views import (
    DrawnBatch,
    Inputs,
    Measured,
    ViewRecipe,
    count_views,
    filled_up,
    in_chunks,
)
from fungistore.objectives.objective import BankObjective, Objective, ViewOutputs
from fungistore.store.feature import (
    EMBEDDINGS,
    GRADIENTS,
    LENGTHS,
    NORMS,
    PATCHES,
    layer_name,
    objective_name,
)


@dataclass(frozen=True)
class GradientFeature:
    """An objective with everything frozen that its features, of any layer, depend on.

    `bank` is what the objective made of other samples' latents, None where it needs none;
    `support` finds the neighbours of tokens in it, for an objective that asks for them.
    """

    objective: Objective
    recipe: ViewRecipe | None
    heads: Mapping[str, nn.Linear]
    bank: Float[Tensor, ...] | None
    support: Support | None = None


@dataclass(frozen=True)
class _Part:
    """Some samples of a batch, on the device: what their views are of, and draws by feature."""

    drawn: DrawnBatch
    draws: Mapping[str, DrawnBatch]

    def of(self, name: str) -> DrawnBatch:
        """Return what was drawn for a feature."""
        return (*self.drawn, *self.draws.get(name, ()))


@dataclass(frozen=True)
class _Made:
    """What one core, or a GPU, makes of some samples: arrays' rows, and gradients by feature."""

    rows: dict[str, Tensor]
    gradients: dict[str, UnitRows]
    factors: dict[str, UnitFactors]


class FeatureMaker:
    """Computes embeddings, token grids and gradient features of batches.

    Args:
        encoder: the encoder that `path` runs.
        path: the gradient path, on its device.
        projection: shared by all objectives; None where no gradient feature is wanted.
        gradients: what their gradient features are made with, by objective.
        pool: tokens are averaged over cells of this side.
        batch_size: samples, or views, that are computed together; a CPU may take several forwards.
        seed: seed of the views.
        device: where the forwards run.
        further: projections of the path's target layers but the first, by name, in its order.
        token_path: the path of objectives that read tokens; None where there is none.
        exact_patches: patch tensors come from that path too, whatever else is asked for.
        tf32: let a GPU multiply float32 as TF32 (10 bits): beside a trunk that rounds as coarsely
            or more, in views, tail and projection, it costs no precision that is left.
        rescues: items that end too early are read as far as they go.
    """

    def __init__(
        self,
        encoder: Encoder,
        path: GradientPath,
        projection: Projection | None,
        gradients: Mapping[str, GradientFeature],
        *,
        pool: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        further: Mapping[str, Projection] | None = None,
        token_path: LayerPath | None = None,
        exact_patches: bool = False,
        tf32: bool = False,
        rescues: bool = False,
    ) -> None:
        self._encoder = encoder
        self._path = path
        self._token_path = token_path
        self._exact_patches = exact_patches
        self._projections: dict[str | None, Projection | None] = {None: projection}
        self._projections.update((further or {}).items())
        self._places = {layer: place for place, layer in enumerate(self._projections)}
        self._gradients = gradients
        self._pool = pool
        self._batch_size = batch_size
        self._on_gpu: OnGpu = "tf32" if tf32 else "ieee"
        self.device = device
        recipes = {name: feature.recipe for name, feature in gradients.items() if feature.recipe}
        base = encoder.base_view.on(device)
        tokens = prod(encoder.token_shape)
        draws = {n: f.objective.needs.token_draws * tokens for n, f in gradients.items()}
        draws = {name: count for name, count in draws.items() if count}
        modality = find_modality(encoder.modality)
        self.drawer = Drawer(modality, base, recipes, seed, rescues, draws)

    @property
    def by_shape(self) -> bool:
        """Whether samples are computed with those of their own shape, instead of being padded."""
        return self._encoder.lengths_differ

    def forwards(self, features: frozenset[str]) -> int:
        """Return how many forwards one sample costs."""
        return sum(count_views(self.drawer.recipe(one.views)) for one in self._passes(features))

    def compute(
        self, drawn: BatchViews, features: frozenset[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Return each array's rows of a batch, by the array's name in the feature set."""
        return start_fetch(self.launch(drawn, features))()

    def latents(self, drawn: BatchViews, name: str) -> NDArray[np.float32]:
        """Return an objective's latents [b, v, d] of a batch, for its bank, by its name."""
        feature = self._gradients[name]
        objective = feature.objective
        assert isinstance(objective, BankObjective)
        (one,) = self._passes(frozenset([name]))

        def encode(part: _Part) -> Tensor:
            with torch.no_grad():  # which is a thread's own
                tape = self._record(part.drawn, one, UNWATCHED)
                return objective.latents(_outputs(tape, part.of(name)), feature.heads)

        slices = self._slices(drawn, one)
        with self._on_device() as cores:
            rows = cores.map(encode, (self._part(piece, drawn, one) for piece in slices))
            latents = joined([piece.places for piece in slices], list(rows))
        found: NDArray[np.float32] = latents.cpu().numpy()
        return found

    def launch(
        self, drawn: BatchViews, features: frozenset[str], context: Context = QUIET
    ) -> dict[str, Tensor]:
        """Return what `compute` does, still on the device; a GPU may yet be working on it.

        Raises:
            FullMemoryError: a GPU's memory does not hold the batch.
            StoppedError: `context` asked for it.
        """
        rows: dict[str, Tensor] = {}
        with self._on_device() as cores:
            for one in self._passes(features):
                rows |= self._launch(drawn, one, cores, context)
        return rows

    def _passes(self, features: frozenset[str]) -> list[Pass]:
        reading = {f for f in features if self._reads_tokens(objective_name(f))}
        if self._exact_patches:
            reading |= features & {PATCHES}
        return divided(features, self.drawer.recipes, reading)

    def _reads_tokens(self, name: str) -> bool:
        return name in self._gradients and self._gradients[name].objective.needs.tokens

    def _launch(
        self, drawn: BatchViews, one: Pass, cores: Cores, context: Context
    ) -> dict[str, Tensor]:
        slices = self._slices(drawn, one)
        watch = shared(context.watch, min(cores.count, len(slices)))

        def make(piece: Slice) -> _Made:
            context.stop_if_asked()
            return self._make(self._part(piece, drawn, one), one, watch)

        rows: dict[str, list[Tensor]] = {}
        places: list[tuple[int, ...]] = []
        for run in in_runs(slices, self.device):
            here = [piece.places for piece in run]
            for name, made in self._projected(here, list(cores.map(make, run)), cores, context):
                rows.setdefault(name, []).append(made)
            places.append(tuple(place for some in here for place in some))
        return {name: joined(places, made) for name, made in rows.items()}

    def _projected(
        self,
        places: Sequence[tuple[int, ...]],
        parts: Sequence[_Made],
        cores: Cores,
        context: Context,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield each array's rows of some parts, one after the other."""

        def whole(rows: Iterable[Tensor]) -> Tensor:
            return torch.cat([one[: len(some)] for some, one in zip(places, rows, strict=True)])

        for name in parts[0].rows:
            yield name, whole(part.rows[name] for part in parts)
        for name in parts[0].gradients:
            gradients = UnitRows(
                whole(part.gradients[name].rows for part in parts),
                whole(part.gradients[name].norms for part in parts),
            )
            with context.watch.stage("projection"):
                projected = normalized_projection(gradients, self._projection(name), cores)
            yield GRADIENTS + name, projected.rows
            yield NORMS + name, projected.norms
        for name in parts[0].factors:
            factors = UnitFactors(
                whole(part.factors[name].left for part in parts),
                whole(part.factors[name].right for part in parts),
                whole(part.factors[name].norms for part in parts),
            )
            with context.watch.stage("projection"):
                tokens = projected_factors(factors, self._projection(name), cores)
                made = stored_gradients(name, tokens, self._encoder.token_shape, self._pool)
            yield from made.items()

    def _projection(self, feature: str) -> Projection:
        found = self._projections[layer_name(feature)]
        assert found is not None
        return found

    def _make(self, drawn: _Part, one: Pass, watch: Stopwatch) -> _Made:
        differentiated: dict[str, list[str]] = {}
        for name in sorted(one.features):
            if (objective := objective_name(name)) in self._gradients:
                differentiated.setdefault(objective, []).append(name)
        with torch.set_grad_enabled(bool(differentiated)):  # a graph costs memory and time
            tape = self._record(drawn.drawn, one, watch)
        rows = {}
        if EMBEDDINGS in one.features:
            rows[EMBEDDINGS] = tape.embeddings[:, 0].detach()
            if isinstance(self.drawer.base, Measured):
                rows[LENGTHS + EMBEDDINGS] = self.drawer.base.lengths(drawn.drawn)
        if tape.patches is not None:
            rows |= stored_grid(tape.patches, self._encoder.token_shape, self._pool)
        gradients: dict[str, UnitRows] = {}
        factors: dict[str, UnitFactors] = {}
        for objective, names in differentiated.items():
            places = [self._places[layer_name(name)] for name in names]
            with watch.stage("tail"):
                losses = self._losses(objective, tape, drawn.of(objective))
                if self._gradients[objective].objective.needs.per_token:
                    assert self._token_path is not None
                    for name, place in zip(names, places, strict=True):
                        factors[name] = self._token_path.token_factors(tape, losses, place)
                else:
                    found = tape.gradients_of(losses, places)
                    gradients |= {n: unit_rows(g) for n, g in zip(names, found, strict=True)}
        return _Made(rows, gradients, factors)

    @contextmanager
    def _on_device(self) -> Iterator[Cores]:
        """Explain a full memory, choose how float32 is multiplied, and give the device's cores."""
        with (
            explain_full_memory(self.device, self._batch_size),
            float32_products(self._on_gpu),
            plain_modes(self.device),
            one_thread_each(self.device) as cores,
        ):
            yield cores if self._encoder.is_thread_safe else ONE_CORE

    def _path_of(self, one: Pass) -> GradientPath:
        if not one.reads_tokens:
            return self._path
        assert self._token_path is not None  # `make_features` gives one
        return self._token_path

    def _slices(self, drawn: BatchViews, one: Pass) -> list[Slice]:
        """Divide a batch into pieces that the path can record with all of their views."""
        views = count_views(self.drawer.recipe(one.views))
        slices = []
        for group in drawn[one.views]:
            tokens = self._tokens_of(group, one)
            path = self._path_of(one)
            count = path.samples_at_once(views, self._batch_size, self.device, tokens)
            starts = range(0, len(group.places), count)
            slices += [Slice(group, start, count) for start in starts]
        return slices

    def _tokens_of(self, group: DrawnGroup, one: Pass) -> int:
        """Return how many tokens a view of a group's samples has, about."""
        if not self._encoder.lengths_differ:
            return prod(self._encoder.token_shape)
        first = tuple(array[:1] for array in group.arrays)
        inputs = self.drawer.recipe(one.views).render(first, 0, slice(0, 1))
        return self._encoder.count_tokens(flat_inputs(inputs))

    def _part(self, piece: Slice, drawn: BatchViews, one: Pass) -> _Part:
        """Return the samples of a piece, on the device.

        A CPU's parts are filled up with copies of the last sample: so a sample's features do not
        depend on its company.
        """
        start, count, places = piece.start, piece.count, list(piece.places)

        def part(some: DrawnBatch) -> DrawnBatch:
            return filled_up(some, count) if self.device.type == "cpu" else some

        draws = {}
        for name in self.drawer.draws.keys() & set(map(objective_name, one.features)):
            (group,) = drawn[name]
            draws[name] = part(tuple(array[places] for array in group.arrays))
        arrays = part(tuple(array[start : start + count] for array in piece.group.arrays))
        return _Part(self._to_device(arrays), draws)

    def _record(self, drawn: DrawnBatch, one: Pass, watch: Stopwatch) -> Tape:
        recipe = self.drawer.recipe(one.views)
        at_once = max(1, self._batch_size // len(drawn[0]))

        def rendered() -> Iterator[Inputs]:
            for group, views in in_chunks(recipe, at_once):
                with watch.stage("views"):
                    inputs = recipe.render(drawn, group, views)
                    chunk = tuple(send(tensor, self.device) for tensor in inputs)
                yield chunk

        path, patches = self._path_of(one), PATCHES in one.features
        if isinstance(path, LayerPath):
            return path.record(rendered(), patches=patches, tokens=one.reads_tokens, watch=watch)
        return path.record(rendered(), patches=patches, watch=watch)

    def _losses(self, name: str, tape: Tape, drawn: DrawnBatch) -> Tensor:
        feature = self._gradients[name]
        outputs, bank = _outputs(tape, drawn), feature.bank
        if feature.support is not None:
            (grid,) = outputs.tokens
            bank = feature.support.nearest(grid.tokens.detach().flatten(1, -2))
        return feature.objective.losses(outputs, feature.heads, bank)

    def _to_device(self, arrays: DrawnBatch) -> DrawnBatch:
        """Send bytes; what says where in them the views are decides shapes, so it stays."""
        is_pinned = self.device.type == "cuda"  # by the loader: nobody waits for the copy
        return tuple(
            array.to(self.device, non_blocking=is_pinned) if array.dtype == torch.uint8 else array
            for array in arrays
        )


def _outputs(tape: Tape, drawn: tuple[Tensor, ...]) -> ViewOutputs:
    return ViewOutputs(tape.embeddings, tape.tokens, drawn)
