"""One faiss index of whatever kind: trained, added to, searched; its ids are sample-table rows."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fungistore.errors import StoreError, UsageError
from fungistore.indexing.coding import Coder, Codes, ListsOnGpu, tile_rows
from fungistore.indexing.options import IndexMetric
from fungistore.matrices.blocks import Vectors, normalize
from fungistore.quantities import counted
from fungistore.store.samples import Rows

FACTORIES = "auto, Flat, HNSW32, IVF1024,Flat, OPQ48_384,IVF1024,PQ48, ..."
LEAST_EFFORT = {"nprobe": 1, "efSearch": 16}
TILES_AT_ONCE = 64  # coded before they are added: enough for as many cores, and not too many bytes
MOST_CANDIDATES = 1024  # of a graph search: beyond this, exact search is hardly slower
WHOLE = (faiss.IndexFlat, faiss.IndexHNSWFlat, faiss.IndexIVFFlat, faiss.IndexRefineFlat)


class VectorIndex:
    """A faiss index whose distances are cosine (1 - cos) or Euclidean, smaller being nearer.

    Args:
        index: takes ids of its own (`add_with_ids`).
        metric: what `index` was made for; vectors are normalised here where it is "cosine".
        device: one GPU to find lists on, as torch names it; default: all that there are.
    """

    def __init__(self, index: Any, metric: IndexMetric, device: str | None = None) -> None:
        self._index = index
        self._metric = metric
        self._kind = _innermost(index)
        self._gpu = ListsOnGpu(self._kind, device)

    @classmethod
    def make(cls, factory: str, dim: int, metric: IndexMetric) -> VectorIndex:
        """Make an empty index from a faiss factory string.

        Raises:
            UsageError: faiss does not know the string, or not for this width and metric.
        """
        try:
            index = faiss.index_factory(dim, factory, faiss_metric(metric))
        except RuntimeError as error:
            raise UsageError(
                "faiss cannot make this index",
                where=f"--factory {factory}",
                expected=f"{FACTORIES} for {counted(dim, 'dimension')} and --metric {metric}",
                found=_reason(error),
                hint="--factory auto always works",
            ) from error
        return cls(index if _takes_ids(index) else faiss.IndexIDMap(index), metric)

    @classmethod
    def read(cls, path: Path, metric: IndexMetric) -> VectorIndex:
        """Read an index from a file whose checksum was compared.

        Raises:
            StoreError: this faiss cannot read it.
        """
        try:
            return cls(faiss.read_index(str(path)), metric)
        except RuntimeError as error:
            raise StoreError(
                "faiss cannot read an index",
                where=path,
                found=_reason(error),
                hint="the same fungi index command with --restart builds it anew",
            ) from error

    @classmethod
    def untied(cls, trained: Codes, metric: IndexMetric, device: str | None) -> VectorIndex:
        """Return an empty index like the one whose `coder.trained` this is, for a worker."""
        return cls(faiss.deserialize_index(trained), metric, device)

    def write(self, path: Path) -> int:
        """Write the index to a file, which the caller makes durable; returns its CRC-32.

        Raises:
            OSError: the file cannot be written, as on a full disk.
        """
        checksum = 0
        with path.open("wb") as file:

            def write(data: bytes) -> None:
                nonlocal checksum
                checksum = zlib.crc32(data, checksum)
                file.write(data)

            # Python's own file, so that a full disk is an OSError
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]
        return checksum

    @property
    def count(self) -> int:
        """Number of vectors."""
        return int(self._index.ntotal)

    @property
    def needs_training(self) -> bool:
        """Whether vectors can only be added after `train`."""
        return not self._index.is_trained

    @property
    def is_exact(self) -> bool:
        """Whether a search compares with every vector as it is."""
        is_mapped = isinstance(self._index, faiss.IndexIDMap)
        return is_mapped and isinstance(faiss.downcast_index(self._index.index), faiss.IndexFlat)

    @property
    def coder(self) -> Coder | None:
        """What finds lists and codes of vectors apart from adding them; None: nothing can."""
        return Coder.of(self._index, self._kind, self._gpu)

    @property
    def metric(self) -> IndexMetric:
        """What distances are."""
        return self._metric

    @property
    def measures_exactly(self) -> bool:
        """Whether the distances of a search are those of whole vectors, not estimates."""
        index = self._index
        if isinstance(index, faiss.IndexIDMap):
            index = faiss.downcast_index(index.index)
        return isinstance(index, WHOLE)

    @property
    def effort_name(self) -> str | None:
        """The parameter that trades time for recall: "nprobe", "efSearch", or none."""
        if isinstance(self._kind, faiss.IndexIVF):
            return "nprobe"
        return "efSearch" if isinstance(self._kind, faiss.IndexHNSW) else None

    def efforts(self) -> list[int]:
        """Return values of that parameter to try, each twice the last."""
        name = self.effort_name
        if name is None:
            return []
        most = int(self._kind.nlist) if name == "nprobe" else MOST_CANDIDATES
        doubled = [LEAST_EFFORT[name] << step for step in range(most.bit_length())]
        return [*(value for value in doubled if value < most), most]

    def set_effort(self, value: int) -> None:
        """Set that parameter."""
        setattr(
            self._kind if self.effort_name == "nprobe" else self._kind.hnsw,
            str(self.effort_name),
            value,
        )

    def train(self, sample: Vectors) -> None:
        """Train on vectors [n, d], which may be changed; k-means runs on GPUs where there are any.

        Raises:
            UsageError: too few vectors for this kind of index.
        """
        if self._metric == "cosine":
            normalize(sample)
        is_ivf = isinstance(self._kind, faiss.IndexIVF)
        for part in (self._kind, getattr(self._kind, "pq", self._kind)):
            if hasattr(
                part, "cp"
            ):  # faiss warns of few points on C's stderr; recall says it better
                part.cp.min_points_per_centroid = 1
        if is_ivf and faiss.get_num_gpus():
            flat = faiss.IndexFlat(self._kind.d, self._kind.metric_type)
            on_gpu = faiss.index_cpu_to_all_gpus(flat)
            self._kind.clustering_index = on_gpu
        try:
            self._index.train(sample)
        except RuntimeError as error:
            raise UsageError(
                "the index cannot be trained",
                where=(
                    f"{counted(len(sample), 'vector')} of {counted(sample.shape[1], 'dimension')}"
                ),
                found=_reason(error),
                hint="--factory Flat needs no training; fewer lists (IVF16) need fewer vectors",
            ) from error
        finally:
            if is_ivf:
                self._kind.clustering_index = None

    def add(self, vectors: Vectors, rows: Rows) -> None:
        """Add vectors [n, d], which may be changed, with their row numbers [n]."""
        if not len(rows):
            return
        if (coder := self.coder) is None:
            if self._metric == "cosine":
                normalize(vectors)
            with self._gpu.used():
                self._index.add_with_ids(vectors, rows)
            return
        step = TILES_AT_ONCE * tile_rows(vectors.shape[1])
        for start in range(0, len(rows), step):
            coder.add(self.codes(coder, vectors[start : start + step]), rows[start : start + step])

    def add_found(self, codes: Codes, rows: Rows) -> None:
        """Add vectors whose lists and codes a coder has found, with their row numbers [n]."""
        coder = self.coder
        assert coder is not None  # or nothing could have been found
        coder.add(codes, rows)

    def codes(self, coder: Coder, vectors: Vectors) -> Codes:
        """Return what a coder finds of vectors [n, d], which may be changed."""
        return coder.codes(vectors, of_unit_length=self._metric == "cosine")

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Return the distances [q, k] and rows [q, k] of the nearest; row -1 where there is none.

        The distances of a quantised index are estimates.
        """
        queries = np.array(vectors, np.float32)
        if self._metric == "cosine":
            normalize(queries)
        scores, rows = self._index.search(queries, k)
        return distances(scores, self._metric), rows


def faiss_metric(metric: IndexMetric) -> int:
    """Return faiss's number of a metric: the inner product of unit vectors, or squared L2."""
    return int(faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2)


def distances(scores: Vectors, metric: IndexMetric) -> Vectors:
    """Return 1 - cosine from inner products, or distances from squared ones; never below zero."""
    if metric == "cosine":
        return np.maximum(1 - scores, 0)
    return np.sqrt(np.maximum(scores, 0))


def _takes_ids(index: Any) -> bool:
    """Whether an index stores ids of its own; an IVF index does, behind a transform too."""
    if isinstance(index, faiss.IndexPreTransform):
        return _takes_ids(faiss.downcast_index(index.index))
    return isinstance(index, faiss.IndexIVF | faiss.IndexIDMap)


def _innermost(index: Any) -> Any:
    """Return what does the search behind id maps, transforms and refinement."""
    if isinstance(index, faiss.IndexIDMap | faiss.IndexPreTransform):
        return _innermost(faiss.downcast_index(index.index))
    if isinstance(index, faiss.IndexRefine):
        return _innermost(faiss.downcast_index(index.base_index))
    return index


def _reason(error: RuntimeError) -> str:
    """Return faiss's message without the place in its source code, and the condition there."""
    said = str(error).rsplit("Error: ", 1)[-1].strip()
    return said.rsplit("' failed: ", 1)[-1] or str(error)
