"""What an index is asked to be; None keeps what the index has, or decides where it is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fungistore.errors import UsageError
from fungistore.names import refuse_odd_name

Metric = Literal["cosine", "euclidean"]
METRICS: tuple[Metric, ...] = ("cosine", "euclidean")
AUTO = "auto"
DEFAULT_METRIC: Metric = "cosine"
DEFAULT_SEED = 42
DEFAULT_TARGET_RECALL = 0.95
LONGEST_FACTORY = 500  # of a sane faiss factory string, with room to spare


@dataclass(frozen=True)
class IndexOptions:
    """Settings of `fungi index`.

    Attributes:
        features: blocks to index, of "embeddings", "kl", "dino", "simclr"; default: all there are.
        pca: name of a PCA to index, instead of blocks.
        feature_set: may be left out where the store has one.
        name: of the index; default: the features, or the PCA, and the metric.
        factory: a faiss factory string, or "auto".
        metric: "cosine" (the default) or "euclidean".
        seed: of the training sample and the queries that recall is measured with.
        target_recall: recall@10 up to which the effort of a search is raised.
        memory_bytes: memory that "auto" reckons with; default: what is available.
    """

    features: tuple[str, ...] | None = None
    pca: str | None = None
    feature_set: str | None = None
    name: str | None = None
    factory: str | None = None
    metric: Metric | None = None
    seed: int | None = None
    target_recall: float | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no index could be built with.

        Raises:
            UsageError: naming the option, what it takes and what it got.
        """
        if self.metric is not None and self.metric not in METRICS:
            _refuse("--metric", " or ".join(METRICS), self.metric)
        if self.target_recall is not None and not 0 < self.target_recall <= 1:
            _refuse("--target-recall", "above 0, at most 1", self.target_recall)
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            _refuse("--memory", "more than 0", self.memory_bytes)
        if self.factory is not None and not 0 < len(self.factory) <= LONGEST_FACTORY:
            _refuse("--factory", "auto, Flat, HNSW32, IVF256,Flat, ...", self.factory[:50])
        if self.name is not None:
            refuse_odd_name(self.name, "--name")


def default_name(features: tuple[str, ...], metric: Metric) -> str:
    """Return the name of an index that was given none, such as "embeddings+kl-cosine"."""
    return f"{'+'.join(features).replace('/', '-')}-{metric}"


def _refuse(flag: str, expected: str, found: object) -> None:
    raise UsageError("cannot use this value", where=flag, expected=expected, found=repr(found))
