"""What the arrays of a feature set hold: their places, and which are vectors side by side.

embeddings            vectors [E]
gradients/<objective> unit vectors [D]; norms/<objective> the norms that these had, numbers [];
                      of a further target layer gradients/<objective>@<layer>
patches               a grid of tokens [h, w, D]; lengths/patches how many are real, where
                      that differs
patch-gradients/<objective>   unit vectors of each token [h, w, G], asked for as
                      patches/<objective>; patch-norms/<objective> their norms [h, w]
pca/<name>            coordinates [dim] of other vectors
bank/<name>           patches [K, dim] of a memory bank, as unit vectors; bank-labels/<name> their
                      pixels of each class [K, C]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Literal, TypeVar

from fungistore.choices import Codec

FeatureKind = Literal["vectors", "grid", "numbers", "coordinates", "bank"]
EMBEDDINGS, PATCHES = "embeddings", "patches"
GRADIENTS, NORMS, LENGTHS, PCA = "gradients/", "norms/", "lengths/", "pca/"
BANK, BANK_LABELS = "bank/", "bank-labels/"
PATCH_GRADIENTS, PATCH_NORMS = "patch-gradients/", "patch-norms/"
OF_PATCHES = "patches/"  # what a feature of each token is asked for by begins with
AT = "@"  # between the objective and the target layer, of a feature of a further one
KINDS: Mapping[str, FeatureKind] = MappingProxyType(
    {
        GRADIENTS: "vectors",
        NORMS: "numbers",
        LENGTHS: "numbers",
        PCA: "coordinates",
        PATCH_GRADIENTS: "grid",
        PATCH_NORMS: "numbers",
        BANK: "bank",
        BANK_LABELS: "bank",
    }
)
KNOWN = (EMBEDDINGS, "kl", "dino", "simclr")  # the order of concatenation (FUNGI, section 3.4)

T = TypeVar("T")


@dataclass(frozen=True)
class Feature:
    """One array of a feature set.

    Attributes:
        path: of the array in the feature set, such as "gradients/kl".
        row_shape: shape of a row.
        dtype: NumPy name of its type.
    """

    path: str
    row_shape: tuple[int, ...]
    dtype: str

    @property
    def asked(self) -> str:
        """What it is asked for by, such as "kl": what is asked for may have several arrays."""
        return name_of(self.path)

    @property
    def kind(self) -> FeatureKind:
        """What a row is."""
        return kind_of(self.path)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, before any codec."""
        import numpy as np  # options know names of features, and stay light

        return prod(self.row_shape) * np.dtype(self.dtype).itemsize

    def codec(self, asked: Codec) -> Codec:
        """Return how its chunks are stored in a feature set of some codec."""
        return codec_of(self.path, asked)


def kind_of(path: str) -> FeatureKind:
    """Return what a row of an array is, by the array's path in its feature set."""
    if path == PATCHES:
        return "grid"
    return KINDS.get(_folder(path), "vectors")


def name_of(path: str) -> str:
    """Return the name that a feature is asked for by: "kl" of "gradients/kl" and "norms/kl"."""
    folder = _folder(path)
    if folder in (PATCH_GRADIENTS, PATCH_NORMS):
        return OF_PATCHES + path.removeprefix(folder)
    return path.removeprefix(folder) if folder in KINDS else path


def grid_path(name: str) -> str:
    """Return the path of the array of a feature of tokens, such as "patches" or "patches/kl"."""
    is_gradient = name.startswith(OF_PATCHES)
    return PATCH_GRADIENTS + name.removeprefix(OF_PATCHES) if is_gradient else name


def gradient_path(name: str) -> str:
    """Return the path of the array of an objective's gradients, of samples or of tokens."""
    return grid_path(name) if name.startswith(OF_PATCHES) else GRADIENTS + name


def codec_of(path: str, asked: Codec) -> Codec:
    """Return how an array is stored in a feature set of some codec: only grids lose digits."""
    return "zstd" if asked == "bitround" and kind_of(path) != "grid" else asked


def is_pca(path: str) -> bool:
    """Whether an array, or a block of a matrix, has the coordinates of a PCA."""
    return path.startswith(PCA)


def is_derived(path: str) -> bool:
    """Whether an array was made of others, and not of items."""
    return path.startswith((PCA, BANK, BANK_LABELS))


def vector_path(name: str) -> str:
    """Return the path of a vector feature's array in its feature set."""
    return name if name == EMBEDDINGS else GRADIENTS + name


def vectors_of(arrays: Mapping[str, T]) -> dict[str, T]:
    """Return the arrays that can be put side by side, by name, in the order of concatenation."""
    blocks = {
        name_of(path): array
        for path, array in arrays.items()
        if path == EMBEDDINGS or path.startswith(GRADIENTS)
    }
    return {name: blocks[name] for name in in_order(blocks)}


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of vector features in the order of concatenation.

    Those not known come last, and after them those of each further target layer.
    """

    def place(name: str) -> tuple[str, int, str]:
        objective = objective_name(name)
        known = KNOWN.index(objective) if objective in KNOWN else len(KNOWN)
        return layer_name(name) or "", known, objective

    return sorted(set(names), key=place)


def objective_name(feature: str) -> str:
    """Return the objective of a gradient feature: "kl" of "kl" and "kl@blocks.11.mlp.fc2"."""
    return feature.partition(AT)[0]


def layer_name(feature: str) -> str | None:
    """Return the further target layer that a feature's name has; None: it is of the first one."""
    return feature.partition(AT)[2] or None


def _folder(path: str) -> str:
    first, separator, _ = path.partition("/")
    return first + separator
