"""What an index is asked to be; None keeps what the index has, or decides where it is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le, MaxLen, MinLen

from fungistore.matrices.choices import FeatureChoice, RemovedChoice
from fungistore.names import PlainName
from fungistore.settings import Positive, Setting
from fungistore.type_words import Words

IndexMetric = Literal["cosine", "euclidean"]
AUTO = "auto"
DEFAULT_METRIC: IndexMetric = "cosine"
DEFAULT_SEED = 42
DEFAULT_TARGET_RECALL = 0.95
LONGEST_FACTORY = 500  # of a sane faiss factory string, with room to spare
GIGABYTE = 1_000_000_000

Factory = Annotated[
    str, MinLen(1), MaxLen(LONGEST_FACTORY), Words("auto, Flat, HNSW32, IVF256,Flat, ...")
]


@dataclass(frozen=True, kw_only=True)
class IndexOptions(FeatureChoice, RemovedChoice):
    """Settings of `fungi index`."""

    heading = "Index"

    name: Annotated[
        PlainName | None,
        Setting(
            "Name of the index.",
            default="its features and metric",
            metavar="NAME",
            names="index",
        ),
    ] = None
    factory: Annotated[
        Factory | None,
        Setting(
            "auto, Flat, HNSW32, IVF1024,Flat, IVF1024,PQ48 or any faiss factory string.",
            default=AUTO,
            metavar="FACTORY",
        ),
    ] = None
    metric: Annotated[
        IndexMetric | None, Setting("How far vectors are apart.", default=DEFAULT_METRIC)
    ] = None
    target_recall: Annotated[
        Annotated[float, Gt(0), Le(1)] | None,
        Setting(
            "recall@10 up to which a search may look longer.", default=str(DEFAULT_TARGET_RECALL)
        ),
    ] = None
    memory: Annotated[
        Positive | None, Setting("GB that auto reckons with.", default="what is available")
    ] = None
    seed: Annotated[
        int | None, Setting("Of the training sample and the recall.", default=str(DEFAULT_SEED))
    ] = None

    @property
    def memory_bytes(self) -> int | None:
        """The memory in bytes."""
        return None if self.memory is None else int(self.memory * GIGABYTE)


def default_name(features: tuple[str, ...], metric: IndexMetric) -> str:
    """Return the name of an index that was given none, such as "embeddings+kl-cosine"."""
    return f"{'+'.join(features).replace('/', '-')}-{metric}"
