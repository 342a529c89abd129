"""The staged feature store on disk."""

from fungistore.store.census import Comparison
from fungistore.store.failures import Failure
from fungistore.store.locks import WHOLE, Patience, Slice
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.samples import SampleTable
from fungistore.store.store import Store
from fungistore.store.units import Codec, Commit, UnitArray

__all__ = [
    "SCHEMA_VERSION",
    "WHOLE",
    "Codec",
    "Commit",
    "Comparison",
    "Failure",
    "Patience",
    "SampleTable",
    "Slice",
    "Store",
    "UnitArray",
]
