"""Orders: exact epochs, from a seed and a number alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungistore.randomness import Stream
from fungistore.training.order import (
    Order,
    Sequential,
    Shuffled,
    Weighted,
    balanced_weights,
    permutation,
    shuffle_windows,
)


@given(count=st.integers(0, 300), seed=st.integers(0, 2**40), name=st.text(max_size=3))
def test_a_permutation_has_every_index_once(count: int, seed: int, name: str) -> None:
    order = permutation(count, seed, name)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_a_permutation_sorts_the_words_of_its_stream() -> None:
    """The oracle is NumPy's argsort; with 64-bit words and few rows, low bits decide nothing."""
    words = Stream(3, "shuffle", "0").words(5000)
    np.testing.assert_array_equal(permutation(5000, 3, "shuffle", "0"), np.argsort(words))


def test_permutations_are_uniform() -> None:
    """Each of the 24 orders of four rows turns up about as often (chi-squared, 23 degrees)."""
    orders = [tuple(Shuffled(np.arange(4), 0).draw(epoch).tolist()) for epoch in range(2400)]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 24
    assert ((counts - 100) ** 2 / 100).sum() < 50  # p = 0.001


def test_an_epoch_is_its_own_and_comes_again() -> None:
    rows = np.arange(100, 200)
    first, second = Shuffled(rows, 0).draw(0), Shuffled(rows, 0).draw(1)
    assert (first != second).any()
    assert (first != Shuffled(rows, 1).draw(0)).any()
    np.testing.assert_array_equal(first, Shuffled(rows, 0).draw(0))


@given(
    rows=st.lists(st.integers(0, 99), max_size=60),
    unit_rows=st.integers(1, 30),
    window=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_windows_keep_every_row_and_use_units_up_in_turn(
    rows: list[int], unit_rows: int, window: int, seed: int
) -> None:
    order = shuffle_windows(np.array(rows, np.int64), seed, 0, unit_rows, window)
    assert sorted(order.tolist()) == sorted(rows)
    units = (order // unit_rows).tolist()
    waiting: list[set[int]] = []
    for unit in units:
        if not waiting or unit not in waiting[-1]:
            if not waiting or len(waiting[-1]) == window:
                waiting.append(set())
            assert not any(unit in old for old in waiting), "a unit came back"
            waiting[-1].add(unit)


def test_windows_mix_units_and_differ_by_epoch() -> None:
    rows = np.arange(800)
    first = shuffle_windows(rows, 0, 0, unit_rows=100, window=4)
    assert {len(set((first[i : i + 50] // 100).tolist())) for i in (0, 400)} == {4}
    assert (first != shuffle_windows(rows, 0, 1, unit_rows=100, window=4)).any()


def test_balanced_weights_draw_every_class_equally_often() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    order = Weighted(np.arange(1000), balanced_weights(labels), seed=0)
    drawn = np.concatenate([order.draw(epoch) for epoch in range(30)])
    shares = np.bincount(labels[drawn]) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.01)
    once = np.bincount(drawn, minlength=1000)[990:]
    np.testing.assert_allclose(once, 1000, rtol=0.15)


def test_rows_without_weight_are_never_drawn() -> None:
    order = Weighted(np.arange(50, 54), np.array([0.0, 2.0, 1.0, 0.0]), seed=0)
    drawn = np.concatenate([order.draw(epoch) for epoch in range(200)])
    assert set(drawn.tolist()) == {51, 52}
    assert (drawn == 51).mean() == pytest.approx(2 / 3, abs=0.05)


def test_windows_of_weighted_rows_hold_the_same_draws() -> None:
    order = Weighted(np.arange(60), np.arange(60, dtype=float), seed=0)
    windows = order.draw_in_windows(3, unit_rows=8, window=2)
    np.testing.assert_array_equal(np.sort(windows), np.sort(order.draw(3)))


@pytest.mark.parametrize(
    "weights", [np.ones(2), np.zeros(3), np.array([1, -1, 1.0]), np.array([1, np.nan, 1])]
)
def test_weights_that_cannot_be_drawn_from_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match="weights"):
        Weighted(np.arange(3), weights, seed=0)


def test_a_sequence_is_ascending_in_every_epoch() -> None:
    rows = np.array([1, 5, 6])
    order: Order = Sequential(rows)
    for drawn in (order.draw(0), order.draw(1), order.draw_in_windows(0, 2, 1)):
        np.testing.assert_array_equal(drawn, rows)
    for wrong in ([2, 1], [1, 1]):
        with pytest.raises(ValueError, match="ascending"):
            Sequential(np.array(wrong))


def test_rows_must_be_a_list_of_integers() -> None:
    for wrong in (np.zeros(3), np.zeros((2, 2), np.int64), np.ones(3, bool)):
        with pytest.raises(ValueError, match="row numbers"):
            Shuffled(wrong, 0)  # type: ignore[arg-type]


def test_no_rows_make_an_empty_epoch() -> None:
    none = np.zeros(0, np.int64)
    for order in (Shuffled(none, 0), Weighted(none, np.zeros(0), 0), Sequential(none)):
        assert not len(order.draw(0))
        assert not len(order.draw_in_windows(0, 4, 2))


def test_balanced_weights_are_one_over_the_size_of_the_class() -> None:
    assert balanced_weights([3, 1, 3, 3, 1, 7]).tolist() == [1 / 3, 1 / 2, 1 / 3, 1 / 3, 1 / 2, 1]


def test_a_weighted_draw_is_the_first_row_whose_share_reaches_the_number() -> None:
    """By the stream "draw" of the seed and epoch, so that a resumed run draws the same rows."""
    rows, weights = np.array([4, 8, 15, 16, 23]), np.array([1.0, 0.0, 2.5, 0.25, 4.0])
    numbers = Stream(3, "draw", "2").uniform(5) * weights.sum()
    expected = []
    for number in numbers:
        place, reached = 0, weights[0]
        while number >= reached:
            place += 1
            reached += weights[place]
        expected.append(rows[place])
    assert Weighted(rows, weights, 3).draw(2).tolist() == expected


@pytest.mark.parametrize("window", [1, 2])
def test_windows_are_units_in_the_order_of_one_stream_and_rows_in_that_of_another(
    window: int,
) -> None:
    rows = np.array([0, 1, 2, 9, 10, 17, 18, 19, 33, 41])
    unit_rows = 8
    units = sorted(set((rows // unit_rows).tolist()))
    order = permutation(len(units), 5, "shuffle", "1", "units")
    place = dict(zip(units, order.tolist(), strict=True))
    words = Stream(5, "shuffle", "1", "windows").words(len(rows)).tolist()
    keys = {
        int(row): (place[row // unit_rows] // window, word)
        for row, word in zip(rows, words, strict=True)
    }
    expected = sorted(rows.tolist(), key=lambda row: keys[row])
    assert shuffle_windows(rows, 5, 1, unit_rows, window).tolist() == expected
    assert Shuffled(rows, 5).draw_in_windows(1, unit_rows, window).tolist() == expected


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9])
def test_a_permutation_is_in_the_order_of_words_without_their_low_bits(count: int) -> None:
    """As many low bits as it takes to number the rows; the number decides between equal ones."""
    bits = max(1, count).bit_length()
    words = [int(word) >> bits for word in Stream(2, "p", "q").words(count)]
    expected = sorted(range(count), key=lambda place: (words[place], place))
    assert permutation(count, 2, "p", "q").tolist() == expected
