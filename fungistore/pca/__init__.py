"""Principal components of feature blocks."""

from fungistore.pca.components import Pca, fit, largest_dim
from fungistore.pca.stage import PcaOptions, PcaResult, StorageDtype, fit_pca, load_pca, refuse_leak

__all__ = [
    "Pca",
    "PcaOptions",
    "PcaResult",
    "StorageDtype",
    "fit",
    "fit_pca",
    "largest_dim",
    "load_pca",
    "refuse_leak",
]
