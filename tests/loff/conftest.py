"""The tensor code of LOFF-TA runs under jaxtyping and beartype here, on one core."""

from __future__ import annotations

from jaxtyping import install_import_hook

TENSOR_CODE = ("augment", "heads", "operations", "resample")
install_import_hook([f"fungistore.loff.{name}" for name in TENSOR_CODE], "beartype.beartype")
