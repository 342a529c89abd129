"""What can be extracted, by name: embeddings, patches, and features of the objectives on offer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fungistore.backbones.families import modality_of
from fungistore.errors import UsageError
from fungistore.modalities.modality import IMAGE
from fungistore.store.feature import AT, EMBEDDINGS, PATCHES, layer_name, objective_name


def usual_features(model: str) -> tuple[str, ...]:
    """Return what is extracted where nobody says: KL adds to images; to others it depends."""
    return (EMBEDDINGS, "kl") if modality_of(model) == IMAGE else (EMBEDDINGS,)


def unknown_features(features: Sequence[str], offered: Sequence[str]) -> list[str]:
    """Return those that are neither on offer nor an offered objective's of a further layer."""
    known = {EMBEDDINGS, PATCHES, *offered}
    return [
        name
        for name in features
        if (objective_name(name) not in offered if layer_name(name) else name not in known)
    ]


def layers_asked(target_layer: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the layers that `--target-layer` names.

    Raises:
        UsageError: one of them twice.
    """
    given = (target_layer,) if isinstance(target_layer, str) else target_layer or ()
    layers = tuple(one.strip() for text in given for one in text.split(",") if one.strip())
    if twice := sorted({one for one in layers if layers.count(one) > 1}):
        raise UsageError(
            "a target layer is named twice",
            where=f"--target-layer {','.join(layers)}",
            found=", ".join(twice),
            hint="name each layer once",
        )
    return layers


def with_further_layers(features: Iterable[str], layers: Sequence[str]) -> tuple[str, ...]:
    """Return features with those of each layer but the first, once each."""
    plain = tuple(features)
    gradients = [f for f in plain if f not in (EMBEDDINGS, PATCHES) and layer_name(f) is None]
    further = [f"{feature}{AT}{layer}" for layer in layers[1:] for feature in gradients]
    return tuple(dict.fromkeys((*plain, *further)))
