"""What belongs into one row: runs that differ in seeds alone, their backbones' too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from fungistore.errors import FungiError
from fungistore.extraction.adapted import find_adaptation
from fungistore.fingerprint import Config, fingerprint
from fungistore.machine.context import Context
from fungistore.store.setups import OPTIONS
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

OF_RUNS = ("compute", "layout")  # of a setup: batches and units, which free memory may decide
OF_SEEDS = ("seed", "split_seed")  # options that runs of one row may differ in


class Kinds:
    """Says what runs of a store share over seeds; each adaptation is read once.

    Args:
        store: the store.
        context: is told of adaptations that cannot be read any more.
    """

    def __init__(self, store: Store, context: Context) -> None:
        self._store, self._context = store, context
        self._adaptations: dict[str, Config | None] = {}

    def setup(self, array: UnitArray) -> Config:
        """Return the configuration of an array; {} where it is not known."""
        setups = self._store.setups
        return setups.config(array.fingerprint) if setups.has(array.fingerprint) else {}

    def adapter(self, array: UnitArray) -> Config | None:
        """Return what identifies the adapter of an array's backbone; None: it has none."""
        backbone = self.setup(array).get("backbone")
        adapter = backbone.get("adapter") if isinstance(backbone, dict) else None
        return adapter if isinstance(adapter, dict) else None

    def backbone(self, array: UnitArray) -> tuple[str, int | None]:
        """Return what made an array, and from images of which size; else its feature set."""
        backbone = self.setup(array).get("backbone")
        if not isinstance(backbone, dict) or "model" not in backbone:
            return array.name.partition("/")[0], None
        size = backbone.get("image_size")
        return str(backbone["model"]), size if isinstance(size, int) else None

    def adaptation(self, array: UnitArray) -> Config | None:
        """Return the configuration of the adaptation behind an array.

        None where there is none, it is gone, or it was trained anew since; the latter are said.
        """
        adapter = self.adapter(array)
        if adapter is None:
            return None
        if array.fingerprint not in self._adaptations:
            self._adaptations[array.fingerprint] = self._read(array, adapter)
        return self._adaptations[array.fingerprint]

    def name(self, array: UnitArray) -> str:
        """Return the name of the adaptation behind an array."""
        asked = self._store.setups.document(array.fingerprint, OPTIONS)["adapter"]
        return Path(str(asked)).name

    def of_features(self, array: UnitArray) -> Config:
        """Return what an array shares with those that adaptations of other seeds have given."""
        made = self.adaptation(array)
        if made is None:
            return {array.name: array.fingerprint}
        setup = self.setup(array)
        own = {key: made[key] for key in ("adapter", "backbone", "dtype", "classes")}
        adapter = own | {"options": without_seeds(made["options"])}
        backbone = setup["backbone"] | {"adapter": adapter}
        features = {key: value for key, value in setup.items() if key not in OF_RUNS}
        return features | {"backbone": backbone, "dtype": setup["compute"]["dtype"]}

    def of_inputs(self, feature_set: str, config: Config) -> str:
        """Return what the features of some heads share, given what one of them was trained with."""
        arrays = self._store.arrays(feature_set).items()
        inputs = config["inputs"]
        return fingerprint({f: self.of_features(one) for f, one in arrays if one.name in inputs})

    def of_head(self, feature_set: str, config: Config) -> str:
        """Return what heads of one row share: all but seeds, and the rows that they decide."""
        shared = {key: config[key] for key in ("head", "dtype", "classes")}
        options = without_seeds(config["options"])
        features = self.of_inputs(feature_set, config)
        return fingerprint(shared | {"options": options, "features": features})

    def _read(self, array: UnitArray, adapter: Config) -> Config | None:
        asked = self._store.setups.document(array.fingerprint, OPTIONS).get("adapter")
        try:
            found = find_adaptation(asked, self._store.backend)
            assert found is not None  # these are features of an adapter
            if found.identity() == adapter:
                return found.config
            why = "it was trained anew since"
        except FungiError as error:
            why = error.what
        self._context.reporter.notice(f"{array.name}: the adaptation {asked!r} is left out: {why}")
        return None


def without_seeds(options: Config) -> Config:
    """Return options without those that runs of one row may differ in."""
    return {key: value for key, value in options.items() if key not in OF_SEEDS}


def name_of(names: Sequence[str]) -> str:
    """Return one name for several runs: what their names begin with, and how many they are."""
    if len(names) == 1:
        return names[0]
    if len({*names}) == 1:
        return f"{names[0]} ({len(names)})"
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    return f"{''.join(letter for letter, _ in same)}* ({len(names)})"
