"""The extraction stage: images in, features out, resumable."""

from fungistore.extraction.measure import Estimate, estimate
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.result import ExtractResult
from fungistore.extraction.run import extract

__all__ = ["Estimate", "ExtractOptions", "ExtractResult", "estimate", "extract"]
