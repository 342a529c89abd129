"""Features from and to files that other programs use: .npy, Parquet and HDF5."""

from fungistore.exchange.export import ExportOptions, ExportResult, export_features
from fungistore.exchange.import_ import import_features
from fungistore.exchange.import_options import ImportOptions, ImportResult

__all__ = [
    "ExportOptions",
    "ExportResult",
    "ImportOptions",
    "ImportResult",
    "export_features",
    "import_features",
]
