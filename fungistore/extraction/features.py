"""From a batch of drawn images to the features of one pass: the model side, put together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from fungistore.backbones.backbone import Backbone
from fungistore.extraction.drawing import BASE, Drawer
from fungistore.gradients.projection import Projection, normalized_projection
from fungistore.gradients.tape import GradientPath, Tape
from fungistore.machine.device import explain_full_memory
from fungistore.machine.precision import OnGpu, float32_products
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch
from fungistore.machine.transfer import start_fetch
from fungistore.modalities.image.inference import InferenceView
from fungistore.modalities.modality import find_modality
from fungistore.modalities.views import ViewRecipe, count_views, in_chunks
from fungistore.objectives.objective import ContrastiveObjective, Objective

DrawnBatch = dict[str, tuple[Shaped[Tensor, "b ..."], ...]]


@dataclass(frozen=True)
class GradientFeature:
    """An objective with everything frozen that its features depend on.

    `negatives` are latents [n, d] (head outputs, not normalised), None where there are none.
    """

    objective: Objective
    recipe: ViewRecipe | None
    heads: Mapping[str, nn.Linear]
    negatives: Float[Tensor, "n d"] | None


class FeatureMaker:
    """Computes embeddings, patch tensors and gradient features of batches.

    Args:
        backbone: describes the model that `path` runs.
        path: the gradient path, on its device.
        projection: shared by all objectives; None where no gradient feature is wanted.
        gradients: gradient features by name.
        pool: patch tensors are averaged over pool x pool cells.
        batch_size: images, or views, that are computed together; a CPU may take several forwards.
        seed: seed of the views.
        device: where the forwards run.
        tf32: let a GPU multiply float32 as TF32 (10 bits): beside a trunk that rounds as coarsely
            or more, in views, tail and projection, it costs no precision that is left.
    """

    def __init__(
        self,
        backbone: Backbone,
        path: GradientPath,
        projection: Projection | None,
        gradients: Mapping[str, GradientFeature],
        *,
        pool: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        tf32: bool = False,
    ) -> None:
        self._path = path
        self._projection = projection
        self._gradients = gradients
        self._pool = pool
        self._batch_size = batch_size
        self._on_gpu: OnGpu = "tf32" if tf32 else "ieee"
        self.device = device
        recipes = {name: feature.recipe for name, feature in gradients.items() if feature.recipe}
        base = InferenceView(backbone.data_config)
        self.drawer = Drawer(find_modality(backbone.modality), base, recipes, seed)
        own = (backbone.data_config["mean"], backbone.data_config["std"])
        reference = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        self._statistics = {
            name: tuple(torch.tensor(v, device=device).view(3, 1, 1) for v in values)
            for name, values in (("model", own), ("imagenet", reference))
        }

    def forwards(self, features: frozenset[str]) -> int:
        """Return how many forwards one image costs."""
        own = self.drawer.recipes
        views = sum(count_views(own[name]) for name in features & own.keys())
        return views + bool(features - own.keys())

    def compute(
        self, drawn: DrawnBatch, features: frozenset[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Return each array's rows of a batch, by the array's name in the feature set."""
        return start_fetch(self.launch(drawn, features))()

    def launch(
        self, drawn: DrawnBatch, features: frozenset[str], watch: Stopwatch = UNWATCHED
    ) -> dict[str, Tensor]:
        """Return what `compute` does, still on the device; a GPU may yet be working on it.

        Raises:
            FullMemoryError: a GPU's memory does not hold the batch.
        """
        with self._on_device():
            return self._launch(drawn, features, watch)

    def _launch(
        self, drawn: DrawnBatch, features: frozenset[str], watch: Stopwatch
    ) -> dict[str, Tensor]:
        rows: dict[str, list[Tensor]] = defaultdict(list)
        base = features - self.drawer.recipes.keys()
        if base:
            (pixels,) = self._to_device(drawn[BASE])
            gradients: dict[str, list[Tensor]] = defaultdict(list)
            for part in pixels.split(self._path.images_at_once(1, self._batch_size)):
                with watch.stage("views"):
                    chunk = self._normalize(part[:, None].float() / 255, "model")
                tape = self._path.record([chunk], patches="patches" in base, watch=watch)
                for name in base & self._gradients.keys():
                    gradients[name].append(self._gradient(name, tape, watch))
                if "embeddings" in base:
                    rows["embeddings"].append(tape.embeddings[:, 0].detach())
                if "patches" in base:
                    assert tape.patches is not None
                    rows["patches"].append(self._pooled(tape.patches))
            for name, parts in gradients.items():
                self._project(name, parts, rows, watch)
        for name in sorted(features - base):
            tapes = (self._record(part, name, watch) for part in self._parts(drawn[name], name))
            self._project(name, [self._gradient(name, t, watch) for t in tapes], rows, watch)
        return {name: torch.cat(parts) for name, parts in rows.items()}

    @torch.no_grad()
    def latents(self, drawn: DrawnBatch, name: str) -> NDArray[np.float32]:
        """Return a contrastive objective's latents [b, v, d] of a batch, to serve as negatives."""
        feature = self._gradients[name]
        assert isinstance(feature.objective, ContrastiveObjective)
        with self._on_device():
            parts = [
                feature.objective.latents(self._record(part, name).embeddings, feature.heads)
                for part in self._parts(drawn[name], name)
            ]
        latents: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return latents

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Explain a full memory, and choose how float32 is multiplied."""
        with explain_full_memory(self.device, self._batch_size), float32_products(self._on_gpu):
            yield

    def _parts(
        self, drawn: tuple[Shaped[Tensor, "b ..."], ...], name: str
    ) -> Iterator[tuple[Shaped[Tensor, "b ..."], ...]]:
        """Split a batch so that the path can record each part with all of its views."""
        views = count_views(self.drawer.recipes[name])
        count = self._path.images_at_once(views, self._batch_size)
        for start in range(0, len(drawn[0]), count):
            yield self._to_device(tuple(array[start : start + count] for array in drawn))

    def _record(
        self,
        drawn: tuple[Shaped[Tensor, "b ..."], ...],
        name: str,
        watch: Stopwatch = UNWATCHED,
    ) -> Tape:
        feature, recipe = self._gradients[name], self.drawer.recipes[name]
        at_once = max(1, self._batch_size // len(drawn[0]))

        def rendered() -> Iterator[Float[Tensor, "b v 3 s s"]]:
            for group, views in in_chunks(recipe, at_once):
                with watch.stage("views"):
                    pixels = recipe.render(drawn, group, views)
                    chunk = self._normalize(pixels, feature.objective.normalization)
                yield chunk

        return self._path.record(rendered(), watch=watch)

    def _gradient(self, name: str, tape: Tape, watch: Stopwatch) -> Float[Tensor, "b o m"]:
        feature = self._gradients[name]
        with watch.stage("tail"):
            losses = feature.objective.losses(tape.embeddings, feature.heads, feature.negatives)
            return tape.gradients(losses)

    def _project(
        self,
        name: str,
        gradients: list[Float[Tensor, "_ o m"]],
        rows: dict[str, list[Tensor]],
        watch: Stopwatch,
    ) -> None:
        assert self._projection is not None
        with watch.stage("projection"):
            unit, norm = normalized_projection(torch.cat(gradients), self._projection)
        rows[f"gradients/{name}"], rows[f"norms/{name}"] = [unit], [norm]

    def _pooled(self, patches: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h2 w2 d"]:
        if self._pool == 1:
            return patches
        channels_first = patches.permute(0, 3, 1, 2).float()
        return nn.functional.avg_pool2d(channels_first, self._pool).permute(0, 2, 3, 1)

    def _normalize(
        self, pixels: Float[Tensor, "b v 3 s s"], statistics: str
    ) -> Float[Tensor, "b v 3 s s"]:
        mean, std = self._statistics[statistics]
        return (pixels - mean) / std

    def _to_device(
        self, arrays: tuple[Shaped[Tensor, "b ..."], ...]
    ) -> tuple[Shaped[Tensor, "b ..."], ...]:
        """Send pixels; what says where in them the views are decides shapes, so it stays."""
        is_pinned = self.device.type == "cuda"  # by the loader: nobody waits for the copy
        return tuple(
            array.to(self.device, non_blocking=is_pinned) if array.dtype == torch.uint8 else array
            for array in arrays
        )
