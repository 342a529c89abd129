"""Averages of neighbouring tokens, against means written out."""

from __future__ import annotations

import pytest
import torch

from fungistore.matrices.cells import pooled


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_maps_are_averaged_over_cells_in_float32(dtype: torch.dtype) -> None:
    tokens = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = tokens.float().view(2, 2, 2, 3, 2, 3).mean(dim=(2, 4))
    found = pooled(tokens, 2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_sequences_are_averaged_over_their_length() -> None:
    tokens = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pooled(tokens, 3), tokens.view(2, 2, 3, 5).mean(dim=2))


def test_cells_of_one_token_are_the_tokens_themselves() -> None:
    tokens = torch.randn(1, 2, 2, 3, dtype=torch.float16)
    assert pooled(tokens, 1) is tokens
