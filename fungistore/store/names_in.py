"""The names that a store has, by its folders alone: for a shell that completes a word.

Nothing is opened or checked, so what is found may be unfinished, or damaged.
"""

from __future__ import annotations

from glob import escape
from pathlib import Path
from types import MappingProxyType

from fungistore.names import is_foreign

PLACES = MappingProxyType(
    {
        "feature set": ("features.zarr/{}",),
        "feature": ("features.zarr/{}/embeddings", "features.zarr/{}/gradients/*"),
        "pca": ("features.zarr/{}/pca/*",),
        "index": ("indexes/{}/*",),
        "head": ("heads/{}/*",),
        "bank": ("features.zarr/{}/bank/*",),
        "adaptation": ("adaptations/*",),
    }
)


def names_in(store: str | Path, kind: str, feature_set: str | None = None) -> list[str]:
    """Return the names of one kind of thing in a store on this machine's disk.

    Args:
        store: its directory; where there is none, nothing is found.
        kind: "feature set", "feature", "pca", "index", "head", "bank" or "adaptation".
        feature_set: that alone; default: all.
    """
    within = "*" if feature_set is None else escape(feature_set)
    folder = Path(store).expanduser()
    found = (path for place in PLACES[kind] for path in folder.glob(place.format(within)))
    names = dict.fromkeys(path.name for path in sorted(found) if path.is_dir())
    return [name for name in names if not is_foreign(name)]
