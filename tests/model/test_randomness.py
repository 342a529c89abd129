"""Streams against NumPy's own Philox, and fingerprints against what they must tell apart."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungistore.fingerprint import (
    ABSENT,
    Config,
    canonical_json,
    describe,
    differences,
    digest_bytes,
    digest_ids,
    digest_rows,
    fingerprint,
    flatten,
    hash_ids,
)
from fungistore.randomness import Stream, derive_key

MASK = (1 << 64) - 1
SIGMAS = 5  # statistical bounds; the seeds are fixed, so nothing here is left to chance


def philox_4x64(counter: int, key: tuple[int, int]) -> list[int]:
    """Philox4x64-10 as published (Salmon et al., 2011): one counter to four words."""
    words = [(counter >> (64 * i)) & MASK for i in range(4)]
    low, high = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [
            (second >> 64) ^ words[1] ^ low,
            second & MASK,
            (first >> 64) ^ words[3] ^ high,
            first & MASK,
        ]
        low, high = (low + 0x9E3779B97F4A7C15) & MASK, (high + 0xBB67AE8584CAA73B) & MASK
    return words


@pytest.mark.parametrize("block", [0, 1, 250])
def test_words_are_numpys_raw_philox_output(block: int) -> None:
    """A stream is NumPy's Philox under the derived key, started at its block's counter."""
    key = derive_key(7, "views", "dino", "cat.jpg")
    numpy = np.random.Philox(counter=np.array([0, 0, block, 0], dtype=np.uint64), key=key)
    words = Stream(7, "views", "dino", "cat.jpg", block=block).words(101)
    assert words.dtype == np.uint64
    assert np.array_equal(words, numpy.random_raw(101))


@pytest.mark.parametrize("block", [0, 3])
def test_words_are_the_published_philox(block: int) -> None:
    """A stream equals Philox4x64-10 written out, so it never depends on NumPy's version."""
    low, high = derive_key(7, "head").tolist()
    expected = []
    for step in range(1, 4):  # NumPy advances the counter before it draws
        expected += philox_4x64((block << 128) + step, (low, high))
    assert Stream(7, "head", block=block).words(12).tolist() == expected


def test_words_are_pinned() -> None:
    """The first words of one stream are what they were when stores began to depend on them."""
    assert derive_key(42, "views", "dino", "a.jpg").tolist() == [
        10140604549653092983,
        10433987111881289498,
    ]
    assert Stream(42, "views", "dino", "a.jpg").words(3).tolist() == [
        12496176601367908865,
        10970460479620467434,
        4064842449378142997,
    ]


def test_a_stream_goes_on_where_it_stopped() -> None:
    """Drawing in pieces gives the numbers of drawing at once."""
    whole, pieces = Stream(1, "a"), Stream(1, "a")
    parts = np.concatenate([pieces.words(count) for count in (1, 2, 3, 4, 90)])
    assert np.array_equal(whole.words(100), parts)


def test_uniform_numbers_are_words_over_two_to_the_53() -> None:
    """Uniforms lie in [0, 1), fill it evenly, keep their shape, and use one word each."""
    numbers = Stream(0, "uniform").uniform(100, 1000)
    assert numbers.shape == (100, 1000)
    assert numbers.dtype == np.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    words = Stream(0, "uniform").words(100_000)
    assert np.array_equal(numbers.ravel(), [(word >> 11) / 2**53 for word in words.tolist()])
    assert abs(numbers.mean() - 0.5) < SIGMAS * math.sqrt(1 / 12 / 100_000)
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    assert np.abs(counts - 1000).max() < SIGMAS * math.sqrt(1000)


def test_normal_numbers_have_the_normal_moments_and_tails() -> None:
    """Box-Muller's numbers have mean 0, variance 1, skewness 0, kurtosis 3, and normal tails."""
    count = 200_000
    numbers = Stream(0, "normal").normal(2, count // 2)
    assert numbers.shape == (2, count // 2)
    assert np.isfinite(numbers).all()
    flat = numbers.ravel()
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((flat**power).mean() - moment) < SIGMAS * math.sqrt(variance / count)
    for bound in (1.0, 2.0, 3.0):
        p = math.erfc(bound / math.sqrt(2))
        error = SIGMAS * math.sqrt(p * (1 - p) / count)
        assert abs((np.abs(flat) > bound).mean() - p) < error
    assert abs(np.corrcoef(numbers[0], numbers[1])[0, 1]) < SIGMAS / math.sqrt(count / 2)


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 5), (2, 2, 3)])
def test_normal_numbers_come_in_any_shape(shape: tuple[int, ...]) -> None:
    """Odd counts and none at all work."""
    assert Stream(0, "normal").normal(*shape).shape == shape


@given(st.integers(0, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_choices_are_distinct_and_repeatable(sizes: tuple[int, int]) -> None:
    """`choice` gives so many distinct integers of the population, the same ones every time."""
    population, count = sizes
    chosen = Stream(3, "negatives").choice(population, count)
    assert chosen.shape == (count,)
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == count
    assert set(chosen.tolist()) <= set(range(population))
    assert np.array_equal(chosen, Stream(3, "negatives").choice(population, count))


@pytest.mark.parametrize(("population", "count"), [(5, 2), (5, 4)])
def test_choices_are_fair(population: int, count: int) -> None:
    """Every integer is equally likely in every position, however many are chosen."""
    runs = 2000
    tally = np.zeros((count, population))
    for seed in range(runs):
        tally[np.arange(count), Stream(seed, "fair").choice(population, count)] += 1
    p = 1 / population
    assert np.abs(tally - runs * p).max() < SIGMAS * math.sqrt(runs * p * (1 - p))


def test_choosing_more_than_there_is_fails() -> None:
    """Six of five cannot be chosen."""
    with pytest.raises(ValueError, match="cannot choose 6 of 5"):
        Stream(0, "x").choice(5, 6)


def test_a_choice_from_a_huge_population_is_quick() -> None:
    """Choosing a few of a billion makes no list of a billion."""
    assert len(set(Stream(0, "x").choice(10**9, 1000).tolist())) == 1000


def test_streams_of_other_names_seeds_and_blocks_are_independent() -> None:
    """No two streams share a word, and none is correlated with another."""
    streams = [
        Stream(0, "views", "dino", "a.jpg"),
        Stream(0, "views", "dino", "b.jpg"),
        Stream(0, "views", "simclr", "a.jpg"),
        Stream(1, "views", "dino", "a.jpg"),
        Stream(0, "views", "dino", "a.jpg", block=1),
        Stream(0, "views", "dino", "a.jpg", block=2),
        Stream(0, "views", "dinoa.jpg"),
        Stream(0, "viewsdino", "a.jpg"),
        Stream(0),
    ]
    words = [stream.words(4000) for stream in streams]
    assert len(set(np.concatenate(words).tolist())) == 4000 * len(streams)
    numbers = np.stack([(row >> np.uint64(11)) / 2**53 for row in words])
    correlations = np.corrcoef(numbers) - np.eye(len(streams))
    assert np.abs(correlations).max() < SIGMAS / math.sqrt(4000)


def test_a_streams_numbers_do_not_depend_on_other_streams() -> None:
    """Nothing is shared: using one stream leaves another where it was."""
    alone = Stream(0, "a").words(10)
    first, other = Stream(0, "a"), Stream(0, "b")
    interleaved = []
    for _ in range(10):
        other.words(3)
        interleaved.append(first.words(1))
    assert np.array_equal(np.concatenate(interleaved), alone)


def test_equal_configurations_have_one_fingerprint() -> None:
    """The order of keys does not matter, at any depth; every value does."""
    one: Config = {"model": "vit", "compute": {"dtype": "float32", "batch": 8}, "mean": [0.5, 0.5]}
    same = {"mean": [0.5, 0.5], "compute": {"batch": 8, "dtype": "float32"}, "model": "vit"}
    assert canonical_json(one) == canonical_json(same)
    assert canonical_json(one) == (
        '{"compute":{"batch":8,"dtype":"float32"},"mean":[0.5,0.5],"model":"vit"}'
    )
    assert fingerprint(one) == fingerprint(same)
    assert len(fingerprint(one)) == 32
    others = [
        one | {"model": "vit2"},
        one | {"compute": {"dtype": "float32", "batch": 16}},
        one | {"mean": [0.5, 0.25]},
        one | {"extra": None},
    ]
    assert len({fingerprint(config) for config in [one, *others]}) == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_has_not_got_are_refused(value: float) -> None:
    """NaN and infinity have no canonical text."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"a": {"b": [value]}})


def test_nested_configurations_flatten_to_dotted_fields() -> None:
    """Mappings become dotted names; lists stay values."""
    nested = {"a": 1, "b": {"c": {"d": [1, 2]}, "e": None}}
    assert flatten(nested) == {"a": 1, "b.c.d": [1, 2], "b.e": None}


def test_differences_name_the_dotted_field_and_both_values() -> None:
    """Only fields that both sides have, with other values, are differences; in sorted order."""
    stored = {"z": 1, "compute": {"dtype": "float32", "batch": 8}, "old": 1, "kl": {"t": 15.0}}
    asked = {"z": 2, "compute": {"dtype": "bfloat16", "batch": 8}, "new": 1, "kl": {"t": 15.0}}
    found = differences(stored, asked, common=True)
    assert found == {"compute.dtype": ("float32", "bfloat16"), "z": (1, 2)}
    assert list(found) == ["compute.dtype", "z"]
    assert differences(stored, stored, common=False) == {}
    assert differences(stored, asked, common=False) == found | {
        "new": (ABSENT, 1),
        "old": (1, ABSENT),
    }


def test_digests_of_ids_are_not_fooled_by_concatenation() -> None:
    """Ids that read the same when joined, in any way, have different digests."""
    lists = [[], [""], ["", ""], ["ab"], ["a", "b"], ["b", "a"], ["", "ab"], ["ab", ""], ["a\0b"]]
    assert len({digest_ids(ids) for ids in lists}) == len(lists)
    assert digest_ids(iter(["a", "b"])) == digest_ids(["a", "b"])


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=5),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=5),
)
def test_digests_are_equal_for_equal_lists_alone(one: list[str], other: list[str]) -> None:
    """Two lists of ids share a digest exactly when they are the same list."""
    assert (digest_ids(one) == digest_ids(other)) == (one == other)


def test_digests_are_blake2b_of_bytes_that_are_written_out_here() -> None:
    """What a store keeps is compared for ever: the bytes behind a digest may never change."""

    def blake(data: bytes, size: int = 16) -> str:
        return hashlib.blake2b(data, digest_size=size).hexdigest()

    assert digest_bytes(b"abc") == blake(b"abc")
    assert fingerprint({"b": [1.0, {"c": 2.5}], "a": None}) == blake(
        b'{"a":null,"b":[1,{"c":2.5}]}'
    )
    ids = ["ä", "bc"]
    framed = b"".join(struct.pack("<Q", len(i.encode())) + i.encode() for i in ids)
    assert digest_ids(ids) == blake(framed)
    assert digest_rows(np.array([3, -1], np.int32)) == blake(struct.pack("<qq", 3, -1))
    numbers = [int.from_bytes(bytes.fromhex(blake(i.encode(), 8)), "little") for i in ids]
    assert hash_ids(ids).tolist() == numbers
    assert hash_ids(ids).dtype == np.uint64
    assert derive_key(7, "a", "b").tolist() == list(
        struct.unpack("<QQ", hashlib.blake2b(b"7\0a\0b", digest_size=16, person=b"fungi").digest())
    )


def test_whole_floats_are_integers_wherever_they_stand() -> None:
    """Settings come as 15 from a shell and as 15.0 from Python, in lists and tables too."""
    assert canonical_json({"a": 15.0, "b": [1.0, (2.0, 0.5)], "c": {"d": -3.0}, "e": True}) == (
        '{"a":15,"b":[1,[2,0.5]],"c":{"d":-3},"e":true}'
    )


def test_differences_of_nested_tables_and_values_of_another_kind() -> None:
    stored = {"a": {"b": {"c": 1, "d": 2}}, "e": {"f": 1}, "g": 1.0}
    asked = {"a": {"b": {"c": 3, "d": 2}}, "e": 5, "g": 1}
    found = differences(stored, asked, common=False)
    assert found == {"a.b.c": (1, 3), "e": ({"f": 1}, 5)}
    assert describe(found) == "a.b.c: stored 1, asked 3\n    e: stored {'f': 1}, asked 5"
    assert differences({}, {"h": 1}, common=False) == {"h": ("(absent)", 1)}
    inner = differences({"a": {"x": 1}}, {"a": {"y": 1}}, common=True)
    assert inner == {}


@pytest.mark.parametrize("count", [1, 4, 5])
def test_normal_numbers_are_box_mullers_of_the_streams_words(count: int) -> None:
    """The first half of the uniform numbers gives radii, the second angles: cosines, then sines."""
    half = (count + 1) // 2
    uniform = [int(word >> np.uint64(11)) / 2**53 for word in Stream(3, "n").words(2 * half)]
    radii = [math.sqrt(-2 * math.log(1 - one)) for one in uniform[:half]]
    angles = [2 * math.pi * one for one in uniform[half:]]
    waves = [wave(angle) for wave in (math.cos, math.sin) for angle in angles]
    expected = [radius * one for radius, one in zip(2 * radii, waves, strict=True)]
    np.testing.assert_allclose(Stream(3, "n").normal(count), expected[:count], rtol=1e-13)


@pytest.mark.parametrize(("population", "count"), [(10, 6), (10, 5), (4, 4), (9, 0), (1000, 3)])
def test_choices_are_those_that_the_uniform_numbers_say(population: int, count: int) -> None:
    """More than half of a population are the first of a permutation; fewer are drawn until new."""
    chosen = Stream(1, "c").choice(population, count)
    numbers = Stream(1, "c")
    if 2 * count > population:
        expected = np.argsort(numbers.uniform(population))[:count].tolist()
    else:
        expected = []
        while len(expected) < count:
            drawn = [int(population * one) for one in numbers.uniform(count)]
            expected = list(dict.fromkeys([*expected, *drawn]))
        expected = expected[:count]
    assert chosen.tolist() == expected
    assert chosen.dtype == np.int64
