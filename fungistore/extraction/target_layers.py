"""Which layers are differentiated in one pass: the first one, further ones, and where it is cut.

`kl` is the gradient of the first target layer, `kl@blocks.11.mlp.fc2` that of a further one. The
layer that runs first of all decides where the trunk ends and which gradient path is taken, so last
digits depend on it: it is decided when a feature set gets its first gradient, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fungistore.backbones.encoder import Encoder
from fungistore.backbones.target_layers import differentiable, refuse_other_layer
from fungistore.errors import MismatchError, UsageError
from fungistore.fingerprint import Config
from fungistore.names import NAME_RULE, is_plain_name
from fungistore.store.feature import AT, layer_name


@dataclass(frozen=True)
class TargetLayers:
    """The target layers of a pass.

    Attributes:
        names: the first one, whose features have the objectives' plain names, and further ones;
            nothing where the encoder has none.
        cut: the layer that runs first of all: what is before its block is the trunk.
    """

    names: tuple[str, ...]
    cut: str | None

    @property
    def further(self) -> tuple[str, ...]:
        """All but the first one."""
        return self.names[1:]

    def place(self, feature: str) -> int:
        """Return which of the layers a gradient feature is of."""
        name = layer_name(feature)
        return 0 if name is None else self.names.index(name)


def target_layers(encoder: Encoder, features: Iterable[str], frozen: Config) -> TargetLayers:
    """Return the layers of a pass: the encoder's, those of the features' names, and the cut.

    Args:
        encoder: with the first target layer.
        features: what is extracted.
        frozen: flattened configuration of the feature set, {} where it is new.

    Raises:
        UsageError: a further layer is none of the model, or is the first one.
        MismatchError: a further layer is before the feature set's cut.
    """
    first = encoder.target_layer
    further = tuple(dict.fromkeys(filter(None, map(layer_name, features))))
    if first is None:
        return TargetLayers((), None)
    for name in further:
        if name == first:
            raise UsageError(
                "features of the first target layer have the objective's name alone",
                where=f"--features NAME{AT}{name}",
                expected=f"NAME, or NAME{AT} and another layer than {first}",
                hint="--target-layer FIRST,OTHER names the first layer",
            )
        refuse_other_layer(encoder.module, name)
        if not is_plain_name("x" + name):  # it becomes part of a folder's name
            raise UsageError(
                "a further target layer's name is part of the names of its features",
                where=f"--target-layer {name}",
                expected=NAME_RULE,
                hint=f"name it first, in a feature set of its own: --target-layer '{name}'",
            )
    order = {name: place for place, name in enumerate(differentiable(encoder.module))}
    begun = frozen.get("gradient.cut_at") or frozen.get("gradient.target_layer")
    names = (first, *further)
    cut = min(names, key=lambda name: order.get(name, -1))
    if begun in order and order[begun] < order.get(cut, -1):
        cut = begun
    elif further and begun is not None and cut != begun:
        raise MismatchError(
            "the feature set was begun without so early a target layer",
            where=f"--target-layer {cut}",
            expected=f"layers behind {begun}, or another feature set",
            hint="keep both with --feature-set OTHER, or start it anew with --restart and all "
            "layers in --target-layer",
        )
    return TargetLayers(names, cut)
