"""The staged feature store on disk."""

from fungistore.store.samples import Comparison, SampleTable
from fungistore.store.store import SCHEMA_VERSION, Failure, Store
from fungistore.store.units import Codec, Commit, UnitArray

__all__ = [
    "SCHEMA_VERSION",
    "Codec",
    "Commit",
    "Comparison",
    "Failure",
    "SampleTable",
    "Store",
    "UnitArray",
]
