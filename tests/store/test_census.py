"""Ids are told apart by hashes of columns, in time that grows with their number alone."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungistore.sources.batches import columns_schema
from fungistore.store.census import Census
from fungistore.store.hashing import hash_column
from fungistore.store.plain import Terms
from fungistore.store.spool import Spool

TERMS = Terms({}, {}, frozenset())


def plain(ids: list[str]) -> pa.RecordBatch:
    columns = {"id": ids, "uri": ids} | dict.fromkeys(["label", "split", "bytes", "mtime"])
    arrays = [columns[name] or [None] * len(ids) for name in TERMS.schema.names]
    return pa.RecordBatch.from_pydict(
        dict(zip(TERMS.schema.names, arrays, strict=True)), schema=TERMS.schema
    )


def listed(ids: list[str]) -> pa.RecordBatch:
    schema = columns_schema({})
    columns = {"id": ids, "uri": ids}
    empty = [None] * len(ids)
    return pa.RecordBatch.from_pydict({n: columns.get(n, empty) for n in schema.names}, schema)


def test_known_samples_are_found_without_sorting_all_of_them_again() -> None:
    """A thousand batches against 300,000 known ids: quadratic work would take half a minute."""
    known = [f"{row}.jpg" for row in range(300_500)]
    with Spool(TERMS.numbered) as differing:
        census = Census([plain(known)], TERMS, differing)
        own = [f"{row}.jpg" for row in range(300_000, 301_000)]
        began = time.perf_counter()
        fresh = [
            name
            for batch in census.new_samples(listed([name]) for name in own)
            for name in batch["id"].to_pylist()
        ]
        assert time.perf_counter() - began < 3
        assert not len(differing.rows())
    assert fresh == own[500:]
    assert (census.added, census.known) == (500, 500)
    assert census.unseen_rows().tolist() == list(range(300_000))


@given(texts=st.lists(st.text(max_size=20) | st.none(), max_size=12), cut=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_a_hash_is_the_cells_alone(texts: list[str | None], cut: int) -> None:
    """Whatever batch, offset or dictionary it is in; other cells have other hashes."""
    column = pa.array(texts, pa.string())
    hashes = hash_column(column)
    parts = [hash_column(column.slice(0, cut)), hash_column(column.slice(cut))]
    assert np.array_equal(np.concatenate(parts), hashes)
    assert np.array_equal(hash_column(column.dictionary_encode()), hashes)
    assert len(set(hashes.tolist())) == len(set(texts))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 23])
def test_texts_that_differ_in_one_byte_never_meet(length: int) -> None:
    """At any place, in its lowest or highest bit; nor does one that is longer by a NUL."""
    base = bytes(range(65, 65 + length))
    texts = {base, base + b"\0", base + b"\0\0", base[:-1]}
    for place in range(length):
        changed = bytearray(base)
        for value in range(1, 128):
            changed[place] = base[place] ^ value
            texts.add(bytes(changed))
    hashes = hash_column(pa.array(sorted(texts), pa.binary()))
    assert len(set(hashes.tolist())) == len(texts)


def test_numbers_of_one_value_have_one_hash() -> None:
    """Empty cells have one of their own, which is not that of zero or of an empty text."""
    numbers = hash_column(pa.array([0, 1, None, 1], pa.int32()))
    assert numbers[1] == numbers[3] == hash_column(pa.array([1], pa.int64()))[0]
    words = hash_column(pa.array(["", None]))
    assert len(set(numbers[:3].tolist())) == 3
    assert words[0] != words[1]
    assert numbers[2] == words[1] == hash_column(pa.nulls(1))[0]
    truths = hash_column(pa.array([True, False, None]))
    assert len(set(truths.tolist())) == 3
