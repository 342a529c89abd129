"""fungi: a frozen vision backbone and a pile of images, turned into features worth keeping.

import fungistore as fungi

options = fungi.ExtractOptions(model="vit_small_patch14_dinov2.lvd142m", image_size=224)
fungi.extract("images/", "pets.fungi", options)
store = fungi.Store.open("pets.fungi")
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Intel's MKL reads this when it first multiplies: features then have the same bits whatever the
# number of threads, at 3 % of the speed
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

if TYPE_CHECKING:
    from fungistore.blocks import FeatureMatrix, open_features
    from fungistore.doctor import Check, Examination, Floor, examine, measure_floor
    from fungistore.errors import FungiError
    from fungistore.evaluation import (
        ClusterOptions,
        CompareOptions,
        Comparison,
        Evaluation,
        KnnOptions,
        LinearOptions,
        RetrievalOptions,
        Score,
        compare_features,
        evaluate_cluster,
        evaluate_knn,
        evaluate_linear,
        evaluate_retrieval,
    )
    from fungistore.exchange import (
        ExportOptions,
        ExportResult,
        ImportOptions,
        ImportResult,
        export_features,
        import_features,
    )
    from fungistore.extraction import Estimate, ExtractOptions, ExtractResult, estimate, extract
    from fungistore.indexing import IndexOptions, IndexResult, build_index, open_index
    from fungistore.pca import Pca, PcaOptions, PcaResult, fit_pca, load_pca
    from fungistore.searching import SearchResult, search, write_page
    from fungistore.sources import Sample, Source, open_source
    from fungistore.store import WHOLE, Slice, Store
    from fungistore.store_status import StoreStatus, status
    from fungistore.verification import Finding, Repair, Verification, repair_store, verify_store

_HOMES = {
    "fungistore.blocks": (
        "FeatureMatrix",
        "open_features",
    ),
    "fungistore.doctor": ("Check", "Examination", "Floor", "examine", "measure_floor"),
    "fungistore.errors": ("FungiError",),
    "fungistore.evaluation": (
        "ClusterOptions",
        "CompareOptions",
        "Comparison",
        "Evaluation",
        "KnnOptions",
        "LinearOptions",
        "RetrievalOptions",
        "Score",
        "compare_features",
        "evaluate_cluster",
        "evaluate_knn",
        "evaluate_linear",
        "evaluate_retrieval",
    ),
    "fungistore.exchange": (
        "ExportOptions",
        "ExportResult",
        "ImportOptions",
        "ImportResult",
        "export_features",
        "import_features",
    ),
    "fungistore.extraction": (
        "Estimate",
        "ExtractOptions",
        "ExtractResult",
        "estimate",
        "extract",
    ),
    "fungistore.indexing": ("IndexOptions", "IndexResult", "build_index", "open_index"),
    "fungistore.pca": (
        "Pca",
        "PcaOptions",
        "PcaResult",
        "fit_pca",
        "load_pca",
    ),
    "fungistore.searching": ("SearchResult", "search", "write_page"),
    "fungistore.sources": (
        "Sample",
        "Source",
        "open_source",
    ),
    "fungistore.store_status": (
        "StoreStatus",
        "status",
    ),
    "fungistore.store": ("WHOLE", "Slice", "Store"),
    "fungistore.verification": (
        "Finding",
        "Repair",
        "Verification",
        "repair_store",
        "verify_store",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "WHOLE",
    "Check",
    "ClusterOptions",
    "CompareOptions",
    "Comparison",
    "Estimate",
    "Evaluation",
    "Examination",
    "ExportOptions",
    "ExportResult",
    "ExtractOptions",
    "ExtractResult",
    "FeatureMatrix",
    "Finding",
    "Floor",
    "FungiError",
    "ImportOptions",
    "ImportResult",
    "IndexOptions",
    "IndexResult",
    "KnnOptions",
    "LinearOptions",
    "Pca",
    "PcaOptions",
    "PcaResult",
    "Repair",
    "RetrievalOptions",
    "Sample",
    "Score",
    "SearchResult",
    "Slice",
    "Source",
    "Store",
    "StoreStatus",
    "Verification",
    "build_index",
    "compare_features",
    "estimate",
    "evaluate_cluster",
    "evaluate_knn",
    "evaluate_linear",
    "evaluate_retrieval",
    "examine",
    "export_features",
    "extract",
    "fit_pca",
    "import_features",
    "load_pca",
    "measure_floor",
    "open_features",
    "open_index",
    "open_source",
    "repair_store",
    "search",
    "status",
    "verify_store",
    "write_page",
]


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `import fungistore` alone never imports torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
