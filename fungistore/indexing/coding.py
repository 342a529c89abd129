"""What inverted lists keep of a vector: the list and the code, found before the vector is added.

That is nearly all of the work of adding. It is done in tiles of one thread each, so that what is
found depends on no number of threads, and on no process that finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from fungistore.matrices.blocks import Vectors, normalize
from fungistore.matrices.products import of_one_thread_each, steps
from fungistore.store.samples import Rows

Codes = NDArray[np.uint8]  # [n, bytes]: of each vector the number of its list, then its code

# With fewer rows a product of faiss takes up to three times as long, of narrow rows above all.
TILE_ROWS = 1024
WIDE = 512  # from so many dimensions on, half as many are as quick, and occupy more cores
# Other kinds keep more beside the lists, or draw lots for a code.
CODED = (faiss.IndexIVFFlat, faiss.IndexIVFPQ, faiss.IndexIVFScalarQuantizer)


def tile_rows(dim: int) -> int:
    """Return how many rows of some width make a tile."""
    return TILE_ROWS // 2 if dim >= WIDE else TILE_ROWS


def one_thread() -> None:
    """Let faiss use the calling thread alone, in that thread."""
    faiss.omp_set_num_threads(1)


class ListsOnGpu:
    """Lets GPUs find the list of each new vector, the costly part of adding to an IVF index.

    Args:
        kind: what does the search in an index.
        device: one GPU, as torch names it; default: all that there are.
    """

    def __init__(self, kind: Any, device: str | None = None) -> None:
        self._ivf, self._device = kind, device
        self._quantizer: Any = None

    @contextmanager
    def used(self) -> Iterator[bool]:
        """Tell whether it is so, and let it be so, within."""
        ivf = self._ivf
        if not (isinstance(ivf, faiss.IndexIVF) and faiss.get_num_gpus()):
            yield False
            return
        own, quantizer = ivf.own_fields, faiss.downcast_index(ivf.quantizer)
        if not isinstance(quantizer, faiss.IndexFlat):
            yield False
            return
        if self._quantizer is None:
            _, _, number = (self._device or "").partition("cuda:")
            gpus = [int(number)] if number else None
            self._quantizer = faiss.index_cpu_to_gpus_list(quantizer, gpus=gpus)
        ivf.own_fields, ivf.quantizer = False, self._quantizer
        try:
            yield True
        finally:
            ivf.quantizer, ivf.own_fields = quantizer, own


class Coder:
    """Finds lists and codes of vectors for one trained index, and adds what was found.

    Args:
        index: inverted lists, or transforms before such.
        ivf: these lists.
        gpu: finds lists, where there is one.
    """

    def __init__(self, index: Any, ivf: Any, gpu: ListsOnGpu) -> None:
        self._index, self._ivf, self._gpu = index, ivf, gpu
        self.list_bytes = int(ivf.coarse_code_size())
        self.keeps_vectors = index is ivf and type(ivf) is faiss.IndexIVFFlat

    @classmethod
    def of(cls, index: Any, kind: Any, gpu: ListsOnGpu) -> Coder | None:
        """Return that of an index and what searches in it; None: vectors are not coded apart."""
        if type(kind) not in CODED:
            return None
        lists = faiss.downcast_InvertedLists(kind.invlists)
        if type(lists) is not faiss.ArrayInvertedLists:
            return None
        inner = index
        if isinstance(index, faiss.IndexPreTransform):
            inner = faiss.downcast_index(index.index)
        if type(inner) is not type(kind):
            return None
        return cls(kind if inner is index else index, kind, gpu)

    def codes(self, vectors: Vectors, *, of_unit_length: bool) -> Codes:
        """Return the lists and codes of vectors [n, d].

        Args:
            vectors: them.
            of_unit_length: they are to have it, and are divided by their lengths in place.
        """
        found = np.empty((len(vectors), self._index.sa_code_size()), np.uint8)

        def fill(tile: slice) -> None:
            if of_unit_length:
                normalize(vectors[tile])
            found[tile] = self._index.sa_encode(vectors[tile])

        with self._gpu.used() as is_on_gpu:
            if is_on_gpu:  # which is for one thread, and for many rows
                fill(slice(None))
            else:
                tiles = steps(len(vectors), tile_rows(vectors.shape[1]))
                of_one_thread_each(fill, tiles, one_thread)
        return found

    def whole(self, lists: Codes, vectors: Vectors) -> Codes:
        """Return the codes of vectors that are kept as they are, whose lists are known."""
        return np.hstack([lists, np.ascontiguousarray(vectors).view(np.uint8)])

    def add(self, codes: Codes, rows: Rows) -> None:
        """Add vectors by their lists and codes, in their order, with their row numbers [n]."""
        self._ivf.add_sa_codes(codes, rows)
        self._index.ntotal = self._ivf.ntotal

    def trained(self) -> Codes:
        """Return the bytes of the index without any vector in it, as a file would have them."""
        index, ivf = self._index, self._ivf
        lists, own, probed = ivf.invlists, ivf.own_invlists, ivf.nprobe
        totals = index.ntotal, ivf.ntotal
        empty = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
        ivf.own_invlists, ivf.invlists, ivf.nprobe = False, empty, 1
        ivf.ntotal = index.ntotal = 0
        try:
            return faiss.serialize_index(index)
        finally:
            ivf.invlists, ivf.own_invlists, ivf.nprobe = lists, own, probed
            index.ntotal, ivf.ntotal = totals
