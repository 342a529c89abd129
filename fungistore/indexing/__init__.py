"""Nearest-neighbour indexes: faiss over the features of a store, grown as the store grows."""

from fungistore.indexing.build import IndexResult, build_index
from fungistore.indexing.options import IndexOptions
from fungistore.indexing.record import IndexRecord, OpenIndex, open_index

__all__ = [
    "IndexOptions",
    "IndexRecord",
    "IndexResult",
    "OpenIndex",
    "build_index",
    "open_index",
]
