"""The tensor code of LOFF-TA runs under jaxtyping and beartype here, on one core."""

from __future__ import annotations

import pytest
from jaxtyping import install_import_hook

TENSOR_CODE = ("augment", "heads", "operations", "resample")
install_import_hook([f"fungistore.loff.{name}" for name in TENSOR_CODE], "beartype.beartype")


@pytest.fixture
def small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """vit-xs with two narrow blocks: where a test is of the training, not of what is trained."""
    from fungistore.loff.transformer_head import ENCODERS, EncoderSize

    monkeypatch.setitem(ENCODERS, "vit-xs", EncoderSize(48, 2, 3, "deit_tiny_patch16_224"))
