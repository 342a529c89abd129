"""FUNGI features as a step of a scikit-learn pipeline: images in memory in, a matrix out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fungistore.errors import ImageError, ItemError, UsageError, refuse_text
from fungistore.extraction.adapted import find_adaptation
from fungistore.extraction.banks import encode_bank
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.freeze import Frozen, bank_features, head_tensors, make_features
from fungistore.extraction.loader import load_batches
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.plan import BatchPlan
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.fingerprint import digest_bytes
from fungistore.location import path_to_uri
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import Vectors, normalize
from fungistore.modalities.image.decode import pixels_of
from fungistore.modalities.modality import IMAGE
from fungistore.store.feature import EMBEDDINGS, OF_PATCHES, in_order, vector_path
from fungistore.store.samples import Rows

TAKEN = "paths, PIL images, or uint8 arrays [height, width, 3]"


class FungiTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images to FUNGI features [n, d], float32, without a store.

        model = make_pipeline(
            FungiTransformer("vit_small_patch14_dinov2.lvd142m", image_size=224), PCA(128),
            KNeighborsClassifier(),
        )
        model.fit(paths, labels)

    Images are paths of files, PIL images, or uint8 arrays of [height, width, 3] or [height, width].
    Each block is L2-normalised and they are put side by side, as `open_features` has them of a
    store: of an image with the same id the same bits, with equal settings, on the same kind of
    machine. The id decides an image's random views: of a path it is the text of the path (as in a
    manifest's `path`, without a leading `./`), of other images the digest of their pixels. So equal
    images have equal features.

    Nothing is learned, but simclr's negatives and deepcluster's prototypes are made of the
    images that `fit` gets.

    Args:
        model: timm model.
        image_size: side of the model's input in pixels; default: the model's own.
        features: of "embeddings", "kl", "dino", "simclr", "deepcluster".
        weights: a weights file instead of timm's download.
        device: "auto", "cpu", "cuda", "cuda:1".
        batch_size: images, or views, computed together; default: by the device.
        seed: of heads, projection, negatives and views.
        settings: further fields of `ExtractOptions`, such as {"view_size": "native"}.
    """

    def __init__(
        self,
        model: str = "vit_small_patch14_dinov2.lvd142m",
        *,
        image_size: int | None = None,
        features: Sequence[str] = (EMBEDDINGS, "kl"),
        weights: str | Path | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        seed: int = 42,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.image_size = image_size
        self.features = features
        self.weights = weights
        self.device = device
        self.batch_size = batch_size
        self.seed = seed
        self.settings = settings

    def fit(self, X: Any, y: object = None) -> Self:  # noqa: N803
        """Check the settings, load the model, and draw negatives from images where they are needed.

        Raises:
            UsageError: a setting, or the images, cannot be used.
            ImageError: no image could be read to take negatives from.
        """
        images = _Images(X)
        self._loaded = resolved = _resolved(self._options())
        # with every automatic decision, so that a copy in another process makes the same
        self.options_ = resolved.to_options()
        heads = {name: head_tensors(resolved, name) for name in resolved.gradient_objectives}
        self.frozen_ = {name: Frozen(tensors, None) for name, tensors in heads.items()}
        for name in resolved.banks:
            bank = encode_bank(resolved, images, name, bank_features(resolved, name), DEFAULT)
            self.frozen_[name] = Frozen(heads[name], bank)
        self._maker = make_features(resolved, self.frozen_)
        return self

    def transform(self, X: Any) -> Vectors:  # noqa: N803
        """Return the features of images [n, d].

        Raises:
            ImageError: an image cannot be read; the error has its index.
        """
        check_is_fitted(self)
        images = _Images(X)
        parts = [np.zeros((0, sum(self._widths().values())), np.float32)]
        return np.concatenate([*parts, *self._computed(images, DEFAULT)])

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return names such as "kl_12"."""
        check_is_fitted(self)
        names = [f"{name}_{i}" for name, width in self._widths().items() for i in range(width)]
        return np.array(names, dtype=object)

    def _options(self) -> ExtractOptions:
        refuse_text("features", self.features)
        given = {
            "model": self.model,
            "image_size": self.image_size,
            "features": tuple(self.features),
            "weights": None if self.weights is None else str(self.weights),
            "device": self.device,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
        if twice := given.keys() & (self.settings or {}).keys():
            raise UsageError("an argument is among the settings", found=", ".join(sorted(twice)))
        config = {name: value for name, value in given.items() if value is not None}
        return ExtractOptions.from_config(config | dict(self.settings or {}))

    def _made(self) -> tuple[Resolved, FeatureMaker]:
        if not hasattr(self, "_maker"):  # in another process
            self._loaded = _resolved(self.options_)
            self._maker = make_features(self._loaded, self.frozen_)
        return self._loaded, self._maker

    def _widths(self) -> dict[str, int]:
        resolved, _ = self._made()
        widths = {spec.path: spec.row_shape[0] for spec in resolved.arrays if spec.row_shape}
        return {name: widths[vector_path(name)] for name in in_order(resolved.options.features)}

    def _computed(self, images: _Images, context: Context) -> Iterator[Vectors]:
        resolved, maker = self._made()
        features, size = frozenset(resolved.options.features), resolved.batch_size

        def plans() -> Iterator[BatchPlan]:
            for start in range(0, len(images), size):
                rows = images.take(np.arange(start, min(start + size, len(images))))
                yield BatchPlan(0, rows, features, last=False)

        context.reporter.begin(resolved.modality.items, len(images))
        try:
            for batch in load_batches(plans(), maker, resolved.workers):
                for failure in batch.failures:
                    raise _unreadable(failure.row, images, failure.message)
                blocks = maker.compute(batch.drawn, features)
                yield self._joined(blocks, resolved)
                context.reporter.advance(len(batch.plan.rows))
        finally:
            context.reporter.end()

    def _joined(self, blocks: Mapping[str, NDArray[np.float32]], resolved: Resolved) -> Vectors:
        """Put blocks side by side, rounded as a store has them, which may overflow as there."""
        found = []
        for name in self._widths():
            with np.errstate(over="ignore", invalid="ignore"):
                stored = blocks[vector_path(name)].astype(resolved.options.storage_dtype)
                block = stored.astype(np.float32)
                normalize(block)
            found.append(block)
        return np.concatenate(found, axis=1)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        return {key: value for key, value in state.items() if key not in ("_loaded", "_maker")}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


class _Images:
    """Images as the sample table has rows, whatever they are."""

    def __init__(self, images: Any) -> None:
        refuse_text("X", images)
        one = type(images).__name__ if isinstance(images, Image.Image) or images is None else ""
        if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] in (3, 4):
            one = f"one array {list(images.shape)}"
        if one:
            raise UsageError("several images are meant", where="X", expected="[image]", found=one)
        if hasattr(images, "to_numpy"):  # a column of a data frame
            images = images.to_numpy()
        if isinstance(images, np.ndarray) and images.ndim == 2 and images.shape[1] == 1:
            images = images[:, 0]
        self._images: list[Any] = list(images)
        self._root = str(Path.cwd())

    def __len__(self) -> int:
        return len(self._images)

    def rows_of_split(self, split: str) -> Rows:
        """Return all of them: they have no splits."""
        return np.arange(len(self))

    def take(self, rows: Rows) -> list[dict[str, Any]]:
        """Return some of them as rows."""
        return [{"row": row, **self._row(row)} for row in rows.tolist()]

    def _row(self, index: int) -> dict[str, Any]:
        image = self._images[index]
        if isinstance(image, str | Path):
            text = str(image)
            while text.startswith("./"):
                text = text[2:].lstrip("/")
            # text may be a uri, as a frame's paths are of members of tar files
            is_uri = text == image and text.isprintable()  # which lone surrogates are not
            uri = text if is_uri else path_to_uri(text)
            return {"id": uri, "root": self._root, "uri": uri}
        try:
            pixels = _pixels(image)
        except ItemError as error:
            raise _unreadable(index, self, error.what) from error
        digest = digest_bytes(repr(pixels.shape).encode() + pixels.tobytes())
        return {"id": digest, "root": self._root, "uri": digest, "item": pixels}

    def name(self, index: int) -> str:
        """Return what to call an image in a message."""
        image = self._images[index]
        path = f", {image}" if isinstance(image, str | Path) else ""
        return f"image {index} of {len(self)}{path}"


def _pixels(image: Any) -> NDArray[np.uint8]:
    if isinstance(image, Image.Image):
        return pixels_of(image)
    array = np.asarray(image)
    if array.dtype == np.uint8 and array.ndim == 2 and array.size:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        found = f"{array.dtype} {list(array.shape)}"
        raise ImageError(f"this is no image: expected {TAKEN}, found {found}")
    return np.ascontiguousarray(array)


def _unreadable(index: int, images: _Images, reason: str) -> ImageError:
    return ImageError("an image cannot be read", where=images.name(index), found=reason)


def _resolved(options: ExtractOptions) -> Resolved:
    if grids := [name for name in options.features if (name + "/").startswith(OF_PATCHES)]:
        found = ", ".join(grids)
        raise UsageError("patch tensors are no vectors", where="features", found=found)
    resolved = resolve(options, {}, find_adaptation(options.adapter, None))
    if resolved.modality.name != IMAGE:
        raise UsageError(
            "the model takes no images",
            where="model",
            expected="a model of images",
            found=f"one of {resolved.modality.items}",
            hint="fungistore.extract makes features of other items, in a store",
        )
    return resolved
