"""Is a store what its records say? `verify_store` reads all of it, `repair_store` mends it."""

from fungistore.verification.findings import ArrayCounts, Finding, Remedy, Repair, Verification
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store

__all__ = [
    "ArrayCounts",
    "Finding",
    "Remedy",
    "Repair",
    "Verification",
    "repair_store",
    "verify_store",
]
