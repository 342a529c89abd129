"""Token grids as they are stored: pooled, padded, with the number of real cells."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fungistore.backbones.encoder import TokenGrid
from fungistore.extraction.grids import stored_grid
from fungistore.store.feature import LENGTHS, PATCHES

CELLS = 8


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, CELLS), min_size=1, max_size=4),
    pool=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 1000),
)
def test_a_sequence_is_pooled_as_if_it_were_alone(lengths: list[int], pool: int, seed: int) -> None:
    """Against a loop: a cell is the mean of its real tokens; all after the last one is zeros."""
    torch.manual_seed(seed)
    tokens = torch.randn(len(lengths), max(lengths), 3)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens[~mask] = torch.nan
    found = stored_grid(TokenGrid(tokens, mask), (CELLS,), pool)
    assert found[PATCHES].shape == (len(lengths), CELLS // pool, 3)
    for row, length in enumerate(lengths):
        expected = [cell.mean(0) for cell in tokens[row, :length].split(pool)]
        assert found[LENGTHS + PATCHES][row] == len(expected)
        torch.testing.assert_close(found[PATCHES][row, : len(expected)], torch.stack(expected))
        assert not found[PATCHES][row, len(expected) :].any()


def test_a_grid_need_not_be_square() -> None:
    """Rows and columns are pooled each by themselves, and nothing is said of lengths."""
    tokens = torch.arange(2 * 4 * 6.0).reshape(2, 4, 6, 1)
    found = stored_grid(TokenGrid(tokens), (4, 6), 2)
    assert list(found) == [PATCHES]
    assert found[PATCHES].shape == (2, 2, 3, 1)
    assert found[PATCHES][0, 0, 0] == tokens[0, :2, :2].mean()


@pytest.mark.parametrize("shape", [(3, 4), (5,)])
def test_what_is_not_pooled_stays_as_it_is(shape: tuple[int, ...]) -> None:
    """To the bit, and in its type."""
    tokens = torch.randn(2, *shape, 3, dtype=torch.bfloat16)
    assert torch.equal(stored_grid(TokenGrid(tokens), shape, 1)[PATCHES], tokens)
