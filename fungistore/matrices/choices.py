"""Settings that many stages share: which features of a store, and which rows to test on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import MinLen

from fungistore.headings import FEATURES, ROWS, SCORES
from fungistore.settings import Count, Setting, Settings, Share

if TYPE_CHECKING:
    from fungistore.fingerprint import Config

ONLY = "the only one"

Features = Annotated[tuple[str, ...], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class FeatureSetChoice(Settings):
    """Which feature set."""

    heading = FEATURES

    feature_set: Annotated[
        str | None,
        Setting(
            "Needed where the store has several.",
            default=ONLY,
            metavar="NAME",
            names="feature set",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class BlockChoice(FeatureSetChoice):
    """Which of a feature set's blocks; None stands for all that are there."""

    heading = FEATURES

    features: Annotated[
        Features | None,
        Setting(
            "Of embeddings,kl,dino,simclr.",
            default="all that are there",
            metavar="NAMES",
            names="feature",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FeatureChoice(BlockChoice):
    """Blocks, or the coordinates of a stored PCA."""

    heading = FEATURES

    pca: Annotated[
        str | None,
        Setting(
            "A PCA made by `fungi pca`, instead.",
            default="the features as they are",
            metavar="NAME",
            names="pca",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class OrderChoice(Settings):
    """What comes before what, where class names are no numbers."""

    heading = SCORES

    order: Annotated[
        Annotated[tuple[str, ...], MinLen(2)] | None,
        Setting(
            "Classes from low to high.",
            flag="--order --class-order",
            default="by their numbers",
            metavar="NAMES",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SeedChoice(Settings):
    """What is random, and apart from it which rows are drawn."""

    heading = ROWS

    seed: Annotated[int, Setting("Of all that is random.")] = 0
    split_seed: Annotated[
        int | None,
        Setting("Of the rows drawn alone: held out, validation, shots.", default="the seed"),
    ] = None

    @property
    def rows_seed(self) -> int:
        """The seed of the choice of rows: those held out, of validation, shots, queries."""
        return self.seed if self.split_seed is None else self.split_seed


@dataclass(frozen=True)
class Run:
    """One of the runs that an evaluation averages over.

    Attributes:
        seed: of what is random in the method.
        rows_seed: of the choice of rows.
    """

    seed: int
    rows_seed: int


@dataclass(frozen=True, kw_only=True)
class RepeatChoice(SeedChoice):
    """Over which seeds an evaluation is repeated and averaged."""

    heading = ROWS

    seeds: Annotated[Count, Setting("Average over so many seeds, from the seed on.")] = 1
    split_seeds: Annotated[
        Count | None,
        Setting(
            "Over so many choices of rows, each with every seed.",
            default="one, or one a seed without --split-seed",
        ),
    ] = None

    @property
    def pairs_rows(self) -> bool:
        """Whether each seed draws its own rows, as where nothing is said of them."""
        return self.split_seed is None and self.split_seeds is None

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs, by the seed of the rows."""
        seeds = range(self.seed, self.seed + self.seeds)
        if self.pairs_rows:
            return tuple(Run(seed, seed) for seed in seeds)
        rows = range(self.rows_seed, self.rows_seed + (self.split_seeds or 1))
        return tuple(Run(seed, rows_seed) for rows_seed in rows for seed in seeds)

    @property
    def seeds_used(self) -> Config:
        """The seeds as part of a protocol, those of the rows where they are not the same."""
        used: Config = {"seeds": list(dict.fromkeys(run.seed for run in self.runs))}
        if not self.pairs_rows:
            used["split_seeds"] = list(dict.fromkeys(run.rows_seed for run in self.runs))
        return used

    def refuse_the_same(self, *, method: bool, rows: bool, otherwise: str) -> None:
        """Refuse repetitions that would all give the same.

        Args:
            method: whether the seed decides more than rows.
            rows: whether rows are drawn.
            otherwise: where they would not be the same, such as "without --shots".

        Raises:
            UsageError: they would.
        """
        if (self.split_seeds or 1) > 1 and not rows:
            expected = f"1 {otherwise}: every choice of rows would be the same"
            self.refuse("split_seeds", expected, self.split_seeds, "leave out --split-seeds")
        if self.seeds > 1 and not method and not (rows and self.pairs_rows):
            expected = f"1 {otherwise}: every seed would give the same"
            hint = "leave out --seeds"
            if rows:
                expected = "1: nothing is random but the rows, which have a seed of their own"
                hint = f"--split-seeds {self.seeds} repeats the choice of rows"
            self.refuse("seeds", expected, self.seeds, hint)


@dataclass(frozen=True, kw_only=True)
class GroupChoice(Settings):
    """Which rows belong together."""

    heading = ROWS

    group: Annotated[
        str | None,
        Setting(
            "Column of the samples whose equal values stay on one side, as a patient's images.",
            default="each sample by itself",
            metavar="COLUMN",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SplitChoice(GroupChoice, SeedChoice):
    """Which rows to test on: those of the store's test split, or a part of each class."""

    heading = ROWS

    holdout: Annotated[
        Share | None,
        Setting(
            "Part of each class to test on.", default="the store's split, or 0.2 where it has none"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RemovedChoice(Settings):
    """What becomes of rows whose file is gone from the source."""

    heading = ROWS

    keep_removed: Annotated[bool, Setting("Use rows whose file is gone from the source, too.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class TaskChoice(BlockChoice, SplitChoice, RemovedChoice):
    """What is classified: which features, and which rows."""
