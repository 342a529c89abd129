"""Whoever read rows can tell later, from the records alone, whether they are still the same."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fungistore.store.contents import (
    CONTENTS,
    Content,
    content_of,
    counts_of,
    digest_of,
    made_anew,
    runs_of,
    state_of,
)
from fungistore.store.local import LocalBackend
from fungistore.store.units import UnitArray

UNIT_ROWS = 8
VALUES = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float16)


@pytest.fixture
def array(tmp_path: Path) -> UnitArray:
    return make_array(tmp_path)


def make_array(root: Path, name: str = "vit/embeddings") -> UnitArray:
    return UnitArray.create(
        LocalBackend(root),
        name,
        shape=(20, 3),
        dtype="float16",
        unit_rows=UNIT_ROWS,
        codec="none",
        fingerprint="f1",
    )


def publish(array: UnitArray, unit: int, rows: int, values: np.ndarray = VALUES) -> None:
    start = unit * UNIT_ROWS
    array.publish(unit, values[start : start + rows], ids="", failed=0)


def changed(row: int) -> np.ndarray:
    values = VALUES.copy()
    values[row] += 1
    return values


def test_growth_is_no_change_however_often_a_unit_is_completed(array: UnitArray) -> None:
    """Each state that a partly filled unit was ever committed in can be told, without its rows."""
    seen = []
    for rows in (1, 3, 4, 8):
        publish(array, 0, rows)
        seen.append(content_of(array))
    publish(array, 2, 4)
    assert [state_of(array, content) for content in seen] == ["same"] * 4
    assert [content.units for content in seen[:2]] == [((1, 1), (2, 0)), ((1, 3), (2, 0))]
    assert len({content.digest for content in seen}) == 4


def test_a_row_made_anew_in_the_last_partly_filled_unit_is_noticed(array: UnitArray) -> None:
    """Those who used the row see it, those who used the rows before it do not."""
    publish(array, 0, 3)
    before = content_of(array)
    publish(array, 0, 6)
    after = content_of(array)
    publish(array, 0, 6, changed(4))
    assert (state_of(array, before), state_of(array, after)) == ("same", "anew")
    assert made_anew([array], {array.name: after, "gone": before}) == [array.name]
    publish(array, 0, 8, changed(1))
    assert state_of(array, before) == "anew"


def test_a_forgotten_record_can_be_handed_on(array: UnitArray) -> None:
    """A redo removes the record before the chunk changes; what went before it is kept."""
    publish(array, 0, 3)
    content, record = content_of(array), array.commit(0)
    array.forget(0)
    assert state_of(array, content) == "gone"
    array.publish(0, VALUES[:5], ids="", failed=0, before=record)
    assert state_of(array, content) == "same"


def test_rows_that_are_not_there_say_nothing(array: UnitArray) -> None:
    """A unit that was dropped, and is there in part, may be completed to what it was."""
    publish(array, 0, 6)
    content = content_of(array)
    array.forget(0)
    publish(array, 0, 3)
    assert state_of(array, content) == "gone"
    publish(array, 0, 6)
    assert state_of(array, content) == "same"


def test_only_the_units_of_the_rows_that_were_used_count(array: UnitArray) -> None:
    """A change elsewhere is none."""
    for unit in range(3):
        publish(array, unit, array.rows_of(unit))
    content = content_of(array, np.array([0, 2, 17]))
    assert content.units == ((1, 8), (1, 0), (1, 4))
    publish(array, 1, 8, changed(9))
    assert state_of(array, content) == "same"
    publish(array, 2, 4, changed(17))
    assert state_of(array, content) == "anew"


def test_rows_of_another_setup_lend_no_checksums(array: UnitArray, tmp_path: Path) -> None:
    """A record that is left of a deleted array is not believed."""
    publish(array, 0, 3)
    path = tmp_path / "commits" / array.name / "00000000.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"fingerprint": "f2"}))
    publish(array, 0, 8)
    assert array.commits()[0].prefixes == ()


def test_contents_are_read_as_they_were_written(tmp_path: Path) -> None:
    """They pass through JSON, and several have one digest, which each decides."""
    one, other = make_array(tmp_path), make_array(tmp_path, "vit/gradients/kl")
    publish(one, 0, 8)
    publish(other, 0, 8, changed(0))
    contents = {array.name: content_of(array) for array in (one, other)}
    assert CONTENTS.validate_json(CONTENTS.dump_json(contents)) == contents
    assert digest_of(contents) != digest_of(contents | {one.name: contents[other.name]})
    assert digest_of(contents) != digest_of({one.name: contents[one.name]})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3)))
def test_runs_are_counts_in_short(counts: list[int]) -> None:
    """Nothing is lost, and equal neighbours are one run."""
    runs = runs_of(np.array(counts, np.int64))
    assert counts_of(runs, len(counts)).tolist() == counts
    assert counts_of(((10**15, 3), (10**15, 1)), 2).tolist() == [3, 3]
    assert all(one[1] != other[1] for one, other in pairwise(runs))
    assert Content(runs, "").units == runs
