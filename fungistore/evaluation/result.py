"""What an evaluation says: scores with the protocol and the fingerprints that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fungistore.errors import UsageError
from fungistore.fingerprint import Config, fingerprint
from fungistore.machine.context import Context
from fungistore.markup import html_table
from fungistore.store.backend import open_backend
from fungistore.store.contents import Contents
from fungistore.store.coverage import Coverage, Mask
from fungistore.store.documents import encode_document, sealed
from fungistore.store.folder import Folder
from fungistore.store.frame import require_pandas
from fungistore.store.removed import GONE
from fungistore.store.samples import Rows
from fungistore.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

EVALS = "evals"
LABEL_HINT = "label the samples (class folders, or a `label` column of the manifest)"
KEY_DIGITS = 16  # of an evaluation's fingerprint, in its file's name


@dataclass(frozen=True)
class Table:
    """Text in columns, to be shown; the first column is the rows' names."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Difference:
    """One combination of features against the first, on the same test rows.

    Attributes:
        against: the first one.
        gained: tests that the combination gets right and the first does not.
        lost: the other way round.
        value: of the accuracies, over all tests; several seeds may test a row several times.
        interval: of 95 %: Tango's; of several seeds the bootstrap's of resampled rows.
        p: how likely so large a difference is where there is none: McNemar's exact test.
    """

    against: str
    gained: int
    lost: int
    value: float
    interval: tuple[float, float]
    p: float


@dataclass(frozen=True)
class Score:
    """The result of one combination of features.

    Attributes:
        features: the blocks, or the name of a PCA.
        dim: width of the vectors that were evaluated.
        n_train: rows fitted on, or searched; the database of a retrieval.
        n_test: rows tested on; the queries of a retrieval.
        metrics: numbers by name; fractions, not per cent.
        spread: for some metrics, [low, high] of a 95 % confidence interval.
        protocol: what this combination has of its own, such as a PCA that was skipped, and why.
        fingerprints: of the arrays it was made from, by array name.
        contents: which rows these were.
        difference: from the first combination that was tested on the same rows, if there is one.
    """

    features: tuple[str, ...]
    dim: int
    n_train: int
    n_test: int
    metrics: Mapping[str, float]
    spread: Mapping[str, tuple[float, float]]
    protocol: Config
    fingerprints: Mapping[str, str]
    contents: Contents = field(default_factory=dict)
    difference: Difference | None = None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of one kind over some combinations.

    Attributes:
        kind: "knn", "linear", "cluster", "retrieval" or "compare".
        store: the store's directory.
        feature_set: name of the feature set.
        protocol: everything that decides the scores, resolved.
        excluded: rows left out, by reason.
        unseen: test rows of classes that no training row has: they count, as wrong.
        scores: one for each combination, in the order asked for.
    """

    kind: str
    store: str
    feature_set: str
    protocol: Config
    excluded: Mapping[str, int]
    scores: tuple[Score, ...]
    unseen: int = field(default=0, kw_only=True)

    def details(self) -> tuple[Table, ...]:
        """Return what there is to show beside the scores."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the last score's fields are also at the top level."""
        document = asdict(self)
        last = document["scores"][-1] if self.scores else {}
        del document["store"]
        return {
            "store": self.store,
            **{key: value for key, value in last.items() if key not in document},
            **document,
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return the scores as a data frame, one row each.

        Columns: features, dim, n_train, n_test, the metrics, for those with a confidence interval
        `NAME_low` and `NAME_high`; where combinations were compared, `difference` with the same,
        and `p`; and what of its protocol a score has of its own.

        Raises:
            UsageError: pandas is not installed; `pip install pandas`.
        """
        return require_pandas().DataFrame([_row(score) for score in self.scores])

    def _repr_html_(self) -> str:
        names = list(dict.fromkeys(name for score in self.scores for name in score.metrics))
        rows = [
            (" + ".join(s.features), s.dim, s.n_train, s.n_test, *(_shown(s, n) for n in names))
            for s in self.scores
        ]
        columns = ("features", "dim", "train", "test", *names)
        return html_table(self._title(), columns, rows)

    def __repr__(self) -> str:
        lines = [
            f"  {' + '.join(s.features)}: {', '.join(f'{n} {_shown(s, n)}' for n in s.metrics)}"
            for s in self.scores
        ]
        return "\n".join([f"<{self._title()}>", *lines])

    def _title(self) -> str:
        return f"{self.kind} of {self.feature_set} in {self.store}"

    def save(self, context: Context) -> str | None:
        """Write the result under evals/; the same evaluation again replaces it.

        Returns:
            The file, or None where the store cannot be written to, which is said.
        """
        document = sealed(self.to_json())
        sources = [score.fingerprints for score in self.scores]
        key = fingerprint({"protocol": self.protocol, "sources": sources})
        folder = Folder(open_backend(self.store)).at(EVALS)
        name = f"{self.kind}-{self.feature_set}-{key[:KEY_DIGITS]}.json"
        try:
            folder.publish(name, encode_document(document))
        except OSError as error:
            where = folder.where(name)
            context.reporter.notice(f"the result was not saved: {where}: {error.strerror}")
            return None
        return folder.where(name)


def _row(score: Score) -> dict[str, Any]:
    against: dict[str, float] = {}
    intervals = dict(score.spread)
    if score.difference is not None:
        against = {"difference": score.difference.value, "p": score.difference.p}
        intervals["difference"] = score.difference.interval
    bounds = {
        f"{name}_{end}": value
        for name, interval in intervals.items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }
    own = {k: v for k, v in score.protocol.items() if isinstance(v, str | int | float | bool)}
    counts = {"dim": score.dim, "n_train": score.n_train, "n_test": score.n_test}
    return {
        "features": "+".join(score.features),
        **counts,
        **score.metrics,
        **against,
        **bounds,
    } | {name: value for name, value in own.items() if name not in score.metrics}


def _shown(score: Score, name: str) -> str:
    return f"{score.metrics[name]:.4f}" if name in score.metrics else "-"


def refuse_too_few(what: str, found: int, least: int, hint: str) -> None:
    """Raise UsageError where fewer rows, or classes, are there than an evaluation needs."""
    if found < least:
        raise UsageError(what, expected=f"at least {least}", found=found, hint=hint)


def count_excluded(
    rows: Rows, is_labelled: Mask, coverage: Coverage, outside: int = 0
) -> dict[str, int]:
    """Count the rows that an evaluation leaves out, by reason.

    Args:
        rows: that are considered.
        is_labelled: mask over the sample table.
        coverage: of the features.
        outside: rows of no split, where others have one.
    """
    is_there = ~coverage.removed
    counts = {
        "rows without a label": int((~is_labelled & is_there)[rows].sum()),
        "rows without usable features": int(
            (is_labelled & is_there & ~coverage.usable)[rows].sum()
        ),
    }
    others = {"rows without a split": outside, GONE: int(coverage.removed[rows].sum())}
    return counts | {reason: count for reason, count in others.items() if count}


def class_names(store: Store, labels: Sequence[int]) -> list[str]:
    """Return the names of some classes."""
    return [store.manifest.labels[label] for label in labels]
