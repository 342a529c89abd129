"""The extraction stage: images in, features out, resumable."""

from fungistore.extraction.measure import Estimate, estimate
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.run import ExtractResult, extract

__all__ = ["Estimate", "ExtractOptions", "ExtractResult", "estimate", "extract"]
