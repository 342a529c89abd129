"""The tensor code of LOFF-TA runs under jaxtyping and beartype here, on one core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from jaxtyping import install_import_hook

TENSOR_CODE = ("augment", "heads", "operations", "resample")
install_import_hook([f"fungistore.loff.{name}" for name in TENSOR_CODE], "beartype.beartype")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one core: the heads are small, and threads that wait for a busy core cost minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
