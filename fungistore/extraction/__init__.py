"""The extraction stage: images in, features out, resumable."""

from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.plan import Estimate
from fungistore.extraction.run import ExtractResult, estimate, extract

__all__ = ["Estimate", "ExtractOptions", "ExtractResult", "estimate", "extract"]
