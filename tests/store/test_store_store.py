"""The store as a whole: what it opens, what it refuses, and what it never leaves half done."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from list_source import numbered
from numpy.typing import NDArray

from fungistore.errors import FungiError, MismatchError, StoreError, UsageError
from fungistore.fingerprint import Config, fingerprint
from fungistore.store.copying import copy_samples
from fungistore.store.durable import publish
from fungistore.store.failures import Failure
from fungistore.store.listing import add_source
from fungistore.store.local import LocalBackend
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.mismatch import refuse_mismatch
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

SHARED_TMP_PATH = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MANIFEST: dict[str, Any] = {
    "schema": list(SCHEMA_VERSION),
    "id": "0" * 32,
    "labels": ["cat", "dog"],
    "parts": [{"file": "part-00000.parquet", "rows": 2, "root": "/images", "checksum": None}],
    "samples": 2,
}
CONFIG: Config = {
    "schema": SCHEMA_VERSION[0],
    "backbone": {"model": "vit_small", "weights": "abc", "transform": {"mean": [0.5, 0.5]}},
    "layout": {"unit_rows": 8, "codec": "none"},
    "gradient": {"seed": 42, "projection": {"kind": "binary", "dim": 384}},
}


def new_store(root: Path) -> Store:
    return Store.open_or_create(root / "s.fungi")


def with_manifest(root: Path, content: str | bytes) -> Path:
    folder = root / "s.fungi"
    folder.mkdir(exist_ok=True)
    (folder / "store.json").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def add_array(store: Store, name: str, config: Config, *, publish: bool = False) -> UnitArray:
    store.setups.freeze(config, {}, {})
    array = UnitArray.create(
        store.backend,
        name,
        shape=(8, 3),
        dtype="float16",
        unit_rows=8,
        codec="none",
        fingerprint=fingerprint(config),
    )
    if publish:
        array.publish(0, np.ones((8, 3), np.float16), ids="", failed=0)
    return array


def changed(config: Config, path: str, value: object) -> Config:
    """Return a copy with one dotted field replaced."""
    copy: Config = json.loads(json.dumps(config))
    *parents, last = path.split(".")
    inner = copy
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return copy


# --- opening and making


def test_a_new_store_opens_again(tmp_path: Path) -> None:
    """A new store is empty, of this version, and keeps the random name that it was given."""
    root = tmp_path / "deep" / "down" / "s.fungi"
    made = Store.open_or_create(root)
    assert made.manifest.schema == SCHEMA_VERSION
    assert (len(made.samples), made.manifest.labels, made.feature_sets()) == (0, (), [])
    assert made.arrays("vit") == {}
    assert made.failures() == []
    assert Store.open(root).manifest == Store.open_or_create(root).manifest == made.manifest
    assert Store.open_or_create(tmp_path / "other").manifest.id != made.manifest.id


def test_an_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    """An empty directory that is already there is taken."""
    assert Store.open_or_create(tmp_path).root == tmp_path
    assert Store.open(tmp_path).feature_sets() == []


def test_counts_in_the_manifest_are_for_people(tmp_path: Path) -> None:
    """store.json says how many samples there are; it is JSON with the documented fields."""
    store = new_store(tmp_path)
    add_source(store, numbered(7))
    document = json.loads((store.root / "store.json").read_bytes())
    assert document["samples"] == 7
    assert document["schema"] == list(SCHEMA_VERSION)
    assert set(document) == {"schema", "id", "labels", "parts", "modality", "samples", "checksum"}


@pytest.mark.parametrize("kind", ["nothing", "empty directory", "directory", "file"])
def test_only_a_store_is_opened(tmp_path: Path, kind: str) -> None:
    """Anything without a store.json is no store: usage, with the command that makes one."""
    root = tmp_path / "images"
    if kind == "file":
        root.write_bytes(b"no store")
    elif kind != "nothing":
        root.mkdir()
    if kind == "directory":
        (root / "a.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="not a fungi store") as caught:
        Store.open(root)
    assert caught.value.exit_code == 2
    assert str(root) in str(caught.value)
    assert "fungi extract" in str(caught.value)


@pytest.mark.parametrize("kind", ["directory", "hidden file", "file", "store.json is a directory"])
def test_a_taken_place_is_refused(tmp_path: Path, kind: str) -> None:
    """A file, or a directory that has anything in it, is not turned into a store."""
    root = tmp_path / "images"
    if kind == "file":
        root.write_bytes(b"precious")
    else:
        root.mkdir()
        (root / (".hidden" if kind == "hidden file" else "a.jpg")).write_bytes(b"precious")
    if kind == "store.json is a directory":
        (root / "store.json").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="taken by something else") as caught:
        Store.open_or_create(root)
    assert caught.value.exit_code == 2
    assert str(root) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


# --- a damaged manifest


@settings(SHARED_TMP_PATH)
@given(content=st.binary(max_size=60))
@example(content=b"")
@example(content=b"\0" * 200)
@example(content=b"\xff\xfe{}")
@example(content=json.dumps(MANIFEST).encode("utf-16"))
def test_bytes_that_are_no_manifest_are_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever bytes store.json has, the answer is an error of ours, and it names the file."""
    root = with_manifest(tmp_path, content)
    for opener in (Store.open, Store.open_or_create):
        try:
            opener(root)
        except StoreError as error:
            assert error.exit_code == 5
            assert "store.json" in str(error)
    assert (root / "store.json").read_bytes() == content


@settings(SHARED_TMP_PATH)
@given(cut=st.integers(0, len(json.dumps(MANIFEST)) - 1))
def test_a_manifest_cut_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    """No prefix of a manifest passes for one."""
    with pytest.raises(StoreError, match="damaged"):
        Store.open(with_manifest(tmp_path, json.dumps(MANIFEST)[:cut]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(SHARED_TMP_PATH)
@given(document=json_values | st.dictionaries(st.sampled_from(sorted(MANIFEST)), json_values))
@example(document={})
@example(document=[1, 0])
@example(document=MANIFEST | {"schema": [1]})
@example(document=MANIFEST | {"schema": [1, 0, 0]})
@example(document=MANIFEST | {"schema": None})
@example(document=MANIFEST | {"labels": 3})
@example(document=MANIFEST | {"parts": [["file", "rows", "root"]]})
@example(document=MANIFEST | {"parts": [{"file": "part-00000.parquet"}]})
@example(document=MANIFEST | {"parts": [{"file": "a", "rows": "many", "root": ""}]})
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, document: object) -> None:
    """Whatever JSON store.json has, it is opened, or refused with an error of ours."""
    try:
        Store.open(with_manifest(tmp_path, json.dumps(document)))
    except FungiError as error:
        assert isinstance(error, StoreError)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(MANIFEST | {"schema": [float("inf"), 0]}),
        json.dumps(MANIFEST | {"schema": [1, 1e300]}).replace("1e+300", "1e400"),
        json.dumps(MANIFEST).replace('"rows": 2', '"rows": Infinity'),
        "[" * 100_000,
    ],
    ids=["infinite major", "1e400 minor", "infinite rows", "deep nesting"],
)
def test_numbers_and_nesting_without_end_are_refused(tmp_path: Path, content: str) -> None:
    """JSON that Python reads as infinity, or cannot read for its depth, is damage too."""
    with pytest.raises(StoreError):
        Store.open(with_manifest(tmp_path, content))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "10"},
        {"schema": [1.9, 0]},
        {"id": None},
        {"labels": "cat"},
        {"labels": [1, None]},
        {"labels": {"cat": 0}},
        {"parts": {}},
        {"parts": [{"file": "a", "rows": -1, "root": ""}]},
        {"parts": [{"file": "a", "rows": "2", "root": ""}]},
        {"parts": [{"file": 3, "rows": 2, "root": ""}]},
        {"parts": [{"file": "a", "rows": 2, "root": None}]},
    ],
    ids=str,
)
def test_fields_of_the_wrong_type_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Damage is found when the store is opened, not as a TypeError somewhere later."""
    with pytest.raises(StoreError):
        Store.open(with_manifest(tmp_path, json.dumps(MANIFEST | changes)))


@pytest.mark.parametrize("damage", [None, b"", b"PAR1 and no more"], ids=["gone", "empty", "cut"])
def test_a_damaged_part_is_a_damaged_store(tmp_path: Path, damage: bytes | None) -> None:
    """Where a part of the sample table is gone or cut, the error is ours and names the file."""
    store = new_store(tmp_path)
    add_source(store, numbered(3))
    part = store.root / "samples.parquet" / "part-00000.parquet"
    if damage is None:
        part.unlink()
    else:
        part.write_bytes(damage)
    with pytest.raises(StoreError, match="part-00000"):
        Store.open(store.root).samples.rows(0, 3)


# --- versions


@pytest.mark.parametrize("major", [0, SCHEMA_VERSION[0] + 1, 10**9])
def test_another_major_version_is_refused(tmp_path: Path, major: int) -> None:
    """A layout that this version does not know is not touched; both versions are named."""
    root = with_manifest(tmp_path, json.dumps(MANIFEST | {"schema": [major, 7]}))
    with pytest.raises(StoreError, match="major version") as caught:
        Store.open(root)
    assert caught.value.exit_code == 5
    assert f"{major}.7" in str(caught.value)
    assert f"{SCHEMA_VERSION[0]}.x" in str(caught.value)


def test_a_newer_major_version_may_have_other_fields(tmp_path: Path) -> None:
    """A newer layout without our fields is called newer, not damaged."""
    root = with_manifest(tmp_path, json.dumps({"schema": [SCHEMA_VERSION[0] + 1, 0], "tables": {}}))
    with pytest.raises(StoreError, match="major version"):
        Store.open(root)


def test_a_newer_minor_version_opens(tmp_path: Path) -> None:
    """A minor version adds what an older reader may ignore; growing it keeps the number."""
    document = MANIFEST | {"schema": [SCHEMA_VERSION[0], 99], "parts": [], "novelty": {"a": 1}}
    store = Store.open(with_manifest(tmp_path, json.dumps(document)))
    assert store.manifest.schema == (SCHEMA_VERSION[0], 99)
    add_source(store, numbered(3))
    assert Store.open(store.root).manifest.schema == (SCHEMA_VERSION[0], 99)
    assert Store.open(store.root).manifest.labels == ("cat", "dog")


def test_a_newer_minor_version_keeps_its_fields(tmp_path: Path) -> None:
    """What an older version does not understand it hands on."""
    document = MANIFEST | {"schema": [SCHEMA_VERSION[0], 99], "parts": [], "novelty": {"a": 1}}
    store = Store.open(with_manifest(tmp_path, json.dumps(document)))
    add_source(store, numbered(3))
    assert json.loads((store.root / "store.json").read_bytes())["novelty"] == {"a": 1}


# --- setups


def test_a_setup_round_trips(tmp_path: Path) -> None:
    """Configuration, tensors of any layout and further documents come back as they were."""
    rng = np.random.default_rng(0)
    tensors: dict[str, dict[str, NDArray[Any]]] = {
        "tensors": {
            "head.weight": rng.standard_normal((4, 3)).astype(np.float32),
            "transposed": rng.standard_normal((4, 3)).astype(np.float32).T,
            "every other": np.arange(10, dtype=np.int64)[::2],
            "half": rng.standard_normal(5).astype(np.float16),
            "none": np.zeros((0, 3), np.float32),
        },
        "negatives": {"latents": rng.standard_normal((2, 2))},
    }
    store = new_store(tmp_path)
    key = fingerprint(CONFIG)
    assert not store.setups.has(key)
    store.setups.freeze(CONFIG, tensors, {"options": {"seed": 42}})
    store = Store.open(store.root)
    assert store.setups.has(key)
    assert store.setups.config(key) == CONFIG
    for name, arrays in tensors.items():
        found = store.setups.tensors(key, name)
        assert set(found) == set(arrays)
        for tensor in arrays:
            np.testing.assert_array_equal(found[tensor], arrays[tensor])
            assert found[tensor].dtype == arrays[tensor].dtype
    options = store.root / "setups" / key / "options.json"
    assert json.loads(options.read_bytes()) == {"seed": 42}


def test_a_frozen_setup_stays_frozen(tmp_path: Path) -> None:
    """Freezing the same configuration again, with other random numbers, changes no file."""
    store = new_store(tmp_path)
    store.setups.freeze(CONFIG, {"tensors": {"a": np.zeros(3)}}, {})
    folder = store.root / "setups" / fingerprint(CONFIG)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    reordered = dict(reversed(CONFIG.items()))
    store.setups.freeze(reordered, {"tensors": {"a": np.ones(3)}}, {"options": {}})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in (store.root / "setups").iterdir()] == [folder.name]


def test_the_configuration_of_a_setup_comes_last_and_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that the setup is whole, so a kill between two files must find it not there."""
    store, seen = new_store(tmp_path), []
    key = fingerprint(CONFIG)

    def watched(name: str) -> Any:
        original = getattr(LocalBackend, name)

        def step(backend: LocalBackend, at: str, *rest: Any) -> None:
            if at.startswith("setups/"):
                seen.append((name, at.removeprefix(f"setups/{key}"), store.setups.has(key)))
            original(backend, at, *rest)

        return step

    for name in ("publish", "remove"):
        monkeypatch.setattr(LocalBackend, name, watched(name))
    store.setups.freeze(CONFIG, {"tensors": {"a": np.zeros(3)}}, {"options": {}})
    store.setups.keep(())
    files = ["/checksums.json", "/options.json", "/tensors.safetensors", "/config.json"]
    assert seen == [
        *(("publish", name, False) for name in files),
        ("remove", "/config.json", True),
        ("remove", "", False),
    ]


def test_a_setup_that_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    """An error after the first file leaves neither the setup nor anything to sweep."""
    store = new_store(tmp_path)
    with pytest.raises(Exception, match=r"(?i)dtype|type|object"):
        store.setups.freeze(CONFIG, {"tensors": {"a": np.array([object()])}}, {})
    assert not store.setups.has(fingerprint(CONFIG))
    assert store.setups.names() == ()
    store.setups.freeze(CONFIG, {}, {})
    assert store.setups.config(fingerprint(CONFIG)) == CONFIG


@pytest.mark.parametrize(
    "damage", [None, b"", b"{", b"\xff"], ids=["gone", "empty", "cut", "bytes"]
)
def test_a_damaged_setup_is_reported(tmp_path: Path, damage: bytes | None) -> None:
    """A setup that is missing or damaged is an incomplete store, with the file's name."""
    store = new_store(tmp_path)
    store.setups.freeze(CONFIG, {"tensors": {"a": np.zeros(3)}}, {})
    key = fingerprint(CONFIG)
    for name in ("config.json", "tensors.safetensors"):
        path = store.root / "setups" / key / name
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
    for read in (lambda: store.setups.config(key), lambda: store.setups.tensors(key, "tensors")):
        with pytest.raises(StoreError, match=key) as caught:
            read()
        assert caught.value.exit_code == 5


# --- mismatch


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("backbone.model", "vit_base", "backbone.model: stored 'vit_small', asked 'vit_base'"),
        ("layout.unit_rows", 16, "layout.unit_rows: stored 8, asked 16"),
        ("gradient.projection.dim", 512, "gradient.projection.dim: stored 384, asked 512"),
        (
            "backbone.transform.mean",
            [0.5, 0.4],
            "backbone.transform.mean: stored [0.5, 0.5], asked [0.5, 0.4]",
        ),
        ("gradient.seed", None, "gradient.seed: stored 42, asked None"),
    ],
)
def test_a_mismatch_is_shown_field_by_field(
    tmp_path: Path, path: str, value: object, shown: str
) -> None:
    """The field that differs is named with both values, the others are not; nothing changes."""
    store = new_store(tmp_path)
    add_array(store, "vit/embeddings", CONFIG)
    with pytest.raises(MismatchError) as caught:
        refuse_mismatch(store, "vit", {"embeddings": changed(CONFIG, path, value)})
    assert caught.value.exit_code == 4
    assert shown in str(caught.value)
    assert str(caught.value).count("stored ") == 1 + str(caught.value.hint).count("stored ")
    assert "--feature-set" in str(caught.value)
    assert "--restart" in str(caught.value)


def test_every_difference_is_shown_once(tmp_path: Path) -> None:
    """Several fields and several features give one list, without repeats."""
    store = new_store(tmp_path)
    add_array(store, "vit/embeddings", CONFIG)
    add_array(store, "vit/gradients/kl", CONFIG | {"kl": {"temperature": 15}})
    asked = changed(changed(CONFIG, "gradient.seed", 7), "layout.codec", "zstd")
    with pytest.raises(MismatchError) as caught:
        refuse_mismatch(
            store, "vit", {"embeddings": asked, "kl": asked | {"kl": {"temperature": 1}}}
        )
    assert caught.value.found == "\n    ".join(
        [
            "gradient.seed: stored 42, asked 7",
            "layout.codec: stored 'none', asked 'zstd'",
            "kl.temperature: stored 15, asked 1",
        ]
    )


def test_fields_that_only_one_side_has_are_ignored(tmp_path: Path) -> None:
    """Features can be added one by one: what the stored ones do not depend on is free."""
    store = new_store(tmp_path)
    add_array(store, "vit/embeddings", {"backbone": {"model": "a"}, "vectors": {"dtype": "f2"}})
    refuse_mismatch(store, "vit", {"patches": {"backbone": {"model": "a"}, "patches": {"pool": 2}}})
    refuse_mismatch(store, "vit", {"kl": {"backbone": {"weights": "abc"}}})


def test_the_same_settings_match(tmp_path: Path) -> None:
    """A configuration matches itself, a new feature set matches anything."""
    store = new_store(tmp_path)
    refuse_mismatch(store, "vit", {"embeddings": CONFIG})
    add_array(store, "vit/embeddings", CONFIG)
    refuse_mismatch(store, "vit", {"embeddings": CONFIG})
    refuse_mismatch(store, "other", {"embeddings": changed(CONFIG, "gradient.seed", 7)})


@pytest.mark.parametrize(
    ("stored", "asked"),
    [({"kind": "binary"}, "binary"), ("binary", {"kind": "binary"}), ({}, 3)],
    ids=str,
)
def test_a_table_and_a_plain_value_are_a_mismatch(
    tmp_path: Path, stored: object, asked: object
) -> None:
    """A field that is a table on one side only is a field that both have, and it differs."""
    store = new_store(tmp_path)
    add_array(store, "vit/embeddings", {"projection": stored})
    with pytest.raises(MismatchError):
        refuse_mismatch(store, "vit", {"embeddings": {"projection": asked}})


@pytest.mark.parametrize(("stored", "asked", "same"), [(15, 15.0, True), (1, True, False)], ids=str)
def test_settings_match_only_if_their_fingerprints_do(
    tmp_path: Path, stored: object, asked: object, same: bool
) -> None:
    """Two complete configurations with the same fields match exactly where they hash the same."""
    store = new_store(tmp_path)
    add_array(store, "vit/gradients/kl", {"temperature": stored})
    assert (fingerprint({"temperature": stored}) == fingerprint({"temperature": asked})) == same
    with nullcontext() if same else pytest.raises(MismatchError):
        refuse_mismatch(store, "vit", {"kl": {"temperature": asked}})


# --- failures


def note(row: int, message: str = "cut short") -> Failure:
    return Failure(row, f"{row}.jpg", "ImageError", message)


def test_the_last_line_of_a_row_counts(tmp_path: Path) -> None:
    """A unit that is computed again notes its failures again; they are one failure, by row."""
    store = new_store(tmp_path)
    store.add_failures([note(7), note(2)])
    store.add_failures([])
    store.add_failures([note(2, "empty"), note(11)])
    assert Store.open(store.root).failures() == [note(2, "empty"), note(7), note(11)]


def test_awkward_messages_stay_on_their_line(tmp_path: Path) -> None:
    """Line breaks of any kind, quotes and unpaired surrogates in a message break nothing."""
    awkward = [
        Failure(n, text, "E", text)
        for n, text in enumerate(
            ["a\nb", "a\r\nb", "\u2028\x85\x0b\x1c", '"', "\udcff", "日本語", ""]
        )
    ]
    store = new_store(tmp_path)
    store.add_failures(awkward)
    assert store.failures() == awkward
    store.compact_failures()
    assert store.failures() == awkward


@settings(SHARED_TMP_PATH, max_examples=30)
@given(cut=st.integers(0, 10_000))
def test_a_half_written_last_line_is_ignored(tmp_path: Path, cut: int) -> None:
    """A kill in the middle of a line costs that line only: its unit was not committed."""
    store = new_store(tmp_path)
    path = store.root / "failures.jsonl"
    path.unlink(missing_ok=True)
    store.add_failures([note(1), note(2)])
    whole = path.read_bytes()
    store.add_failures([note(3)])
    half = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + half[: cut % (len(half) - 1)])
    assert store.failures() == [note(1), note(2)]
    store.compact_failures()
    assert path.read_bytes() == whole


def test_a_failure_after_a_half_written_line_is_kept(tmp_path: Path) -> None:
    """After a kill or a full disk cut a line short, the next failure is not swallowed by it."""
    store = new_store(tmp_path)
    store.add_failures([note(1)])
    with (store.root / "failures.jsonl").open("a") as file:
        file.write('{"row": 2, "uri": "2.j')
    store.add_failures([note(2), note(3)])
    assert store.failures() == [note(1), note(2), note(3)]


def test_a_damaged_line_of_failures_is_ignored(tmp_path: Path) -> None:
    """Bytes that are no text cost their line, not the run."""
    store = new_store(tmp_path)
    (store.root / "failures.jsonl").write_bytes(b"\xff\xfe\x00\n")
    store.add_failures([note(3)])
    assert store.failures() == [note(3)]


def test_a_failure_of_a_newer_minor_version_is_kept(tmp_path: Path) -> None:
    """A reader opens any minor version, so a field that it does not know loses no failure."""
    store = new_store(tmp_path)
    line = json.dumps({"row": 3, "uri": "3.jpg", "error": "E", "message": "m", "attempts": 2})
    (store.root / "failures.jsonl").write_text(line + "\n")
    store.compact_failures()
    assert [failure.row for failure in store.failures()] == [3]


def test_compacting_sorts_and_removes_repeats(tmp_path: Path) -> None:
    """Compacted, the file has one line a row, by row; without failures there is no file."""
    store = new_store(tmp_path)
    store.compact_failures()
    assert not (store.root / "failures.jsonl").exists()
    store.add_failures([note(7), note(2), note(7, "empty")])
    store.compact_failures()
    lines = (store.root / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [2, 7]
    assert store.failures() == [note(2), note(7, "empty")]
    before = (store.root / "failures.jsonl").read_bytes()
    store.compact_failures()
    assert (store.root / "failures.jsonl").read_bytes() == before


# --- sweeping and removing


HEX = "0f" * 16  # what uuid4().hex looks like


def test_sweeping_removes_orphans_only(tmp_path: Path) -> None:
    """Temporary files and folders go, wherever they are; every other file stays byte for byte."""
    store = new_store(tmp_path)
    add_source(store, numbered(3))
    array = add_array(store, "vit/embeddings", CONFIG, publish=True)
    store.add_failures([note(1)])
    (store.root / "notes.partial.txt").write_text("mine")
    (store.root / "partial").mkdir()
    (store.root / "features.zarr" / "my.partial").mkdir()
    before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}
    folders = {p for p in store.root.rglob("*") if p.is_dir()}
    chunk = array.chunk_path(0)
    for orphan in (
        store.root / f"store.json.{HEX}.partial",
        store.root / "samples.parquet" / f"part-00001.parquet.{HEX}.partial",
        chunk.with_name(f"{chunk.name}.{HEX}.partial"),
        store.root / "commits" / "vit" / "embeddings" / f"00000001.json.{HEX}.partial",
    ):
        orphan.write_bytes(b"half")
    setup = store.root / "setups" / f"0f.{HEX}.partial"
    setup.mkdir()
    (setup / "config.json").write_text("{}")
    assert store.sweep() == 5
    assert {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()} == before
    assert {p for p in store.root.rglob("*") if p.is_dir()} == folders
    assert store.sweep() == 0


def test_a_link_to_elsewhere_is_swept_as_a_link(tmp_path: Path) -> None:
    """Sweeping does not follow links out of the store."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"precious.{HEX}.partial").write_text("mine")
    store = new_store(tmp_path)
    (store.root / "link").symlink_to(elsewhere)
    store.sweep()
    assert (elsewhere / f"precious.{HEX}.partial").read_text() == "mine"


def test_a_link_named_partial_does_not_stop_the_sweep(tmp_path: Path) -> None:
    """A link that is named like an orphan is removed, and its target is not."""
    (tmp_path / "elsewhere").mkdir()
    store = new_store(tmp_path)
    (store.root / f"link.{HEX}.partial").symlink_to(tmp_path / "elsewhere")
    assert store.sweep() == 1
    assert (tmp_path / "elsewhere").is_dir()


def test_removing_arrays_leaves_the_others(tmp_path: Path) -> None:
    """Removed arrays are gone with their records; other arrays, setups and samples stay."""
    store = new_store(tmp_path)
    add_source(store, numbered(8))
    gone = add_array(store, "vit/gradients/kl", CONFIG, publish=True)
    kept = add_array(store, "vit/embeddings", CONFIG, publish=True)
    store.remove_arrays([gone])
    store = Store.open(store.root)
    assert sorted(store.arrays("vit")) == ["embeddings"]
    assert not gone.chunk_path(0).exists()
    assert not (store.root / "commits" / gone.name).exists()
    assert sorted(kept.commits()) == [0]
    assert store.setups.has(fingerprint(CONFIG))
    assert len(store.samples) == 8
    again = add_array(store, "vit/gradients/kl", CONFIG)
    assert again.commits() == {}


def test_records_are_removed_before_their_array(tmp_path: Path) -> None:
    """A process that dies at the array's removal has already removed the records."""
    store = new_store(tmp_path)
    add_array(store, "vit/embeddings", CONFIG, publish=True)
    died = run(
        """
        def watch(event, arguments):
            if event == "os.rename" and "features.zarr" in str(arguments[0]):
                os._exit(9)

        sys.addaudithook(watch)
        store = Store.open(root)
        store.remove_arrays(store.arrays("vit").values())
        """,
        store.root,
    )
    assert died == 9
    array = Store.open(store.root).arrays("vit")["embeddings"]
    assert array.chunk_path(0).is_file()
    assert array.commits() == {}
    assert not (store.root / "commits/vit/embeddings").exists()


# --- listing


def test_feature_sets_and_arrays_are_listed_by_name(tmp_path: Path) -> None:
    """Feature sets are the first level; an array's name is its path in its feature set."""
    store = new_store(tmp_path)
    for name in ("vit/patches", "vit/gradients/kl", "vit/embeddings", "dino/norms/kl"):
        add_array(store, name, CONFIG)
    assert store.feature_sets() == ["dino", "vit"]
    arrays = store.arrays("vit")
    assert list(arrays) == ["embeddings", "gradients/kl", "patches"]
    assert [array.name for array in arrays.values()] == [
        "vit/embeddings",
        "vit/gradients/kl",
        "vit/patches",
    ]
    assert list(store.arrays("dino")) == ["norms/kl"]
    assert store.arrays("resnet") == {}
    assert {array.fingerprint for array in arrays.values()} == {fingerprint(CONFIG)}


def test_a_feature_set_without_arrays_is_not_listed(tmp_path: Path) -> None:
    """When its last array is removed, a feature set is gone."""
    store = new_store(tmp_path)
    array = add_array(store, "vit/embeddings", CONFIG)
    store.remove_arrays([array])
    assert store.feature_sets() == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"], ids=["empty", "cut", "list"])
def test_damaged_array_metadata_is_a_damaged_store(tmp_path: Path, damage: bytes) -> None:
    """An array whose zarr.json a power cut emptied is reported as damage, with its path."""
    store = new_store(tmp_path)
    add_array(store, "vit/embeddings", CONFIG)
    (store.root / "features.zarr/vit/embeddings/zarr.json").write_bytes(damage)
    with pytest.raises(StoreError, match="embeddings"):
        store.arrays("vit")


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")  # has its own test, below
@pytest.mark.parametrize("group", ["vit", "vit/gradients"])
def test_an_array_whose_group_was_not_written_is_found_or_made(tmp_path: Path, group: str) -> None:
    """What a kill within `create` can leave does not stop the next run."""
    store = new_store(tmp_path)
    add_array(store, "vit/gradients/kl", CONFIG)
    (store.root / "features.zarr" / group / "zarr.json").unlink()
    if "gradients/kl" not in store.arrays("vit"):
        add_array(store, "vit/gradients/kl", CONFIG)
    assert list(Store.open(store.root).arrays("vit")) == ["gradients/kl"]


@pytest.mark.parametrize("leftover", ["zarr.0f.partial", "patches/"])
def test_leftovers_of_a_kill_are_listed_in_silence(tmp_path: Path, leftover: str) -> None:
    """A file or folder that a kill left in a feature set is neither an array nor a warning."""
    store = new_store(tmp_path)
    add_array(store, "vit/embeddings", CONFIG)
    path = store.root / "features.zarr/vit" / leftover
    if leftover.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(b"{")
    assert list(store.arrays("vit")) == ["embeddings"]


def test_a_copy_of_the_samples_is_another_store(tmp_path: Path) -> None:
    """A dry run's copy has the samples and no features; growing it leaves the original alone."""
    store = new_store(tmp_path)
    add_source(store, numbered(5))
    add_array(store, "vit/embeddings", CONFIG, publish=True)
    target = tmp_path / "copy"
    target.mkdir()
    copy = copy_samples(store, target)
    assert copy.samples.rows(0, 5) == store.samples.rows(0, 5)
    assert copy.feature_sets() == []
    add_source(copy, numbered(9))
    assert len(copy.samples) == 9
    assert len(Store.open(store.root).samples) == len(store.samples) == 5


def test_a_removed_store_is_gone(tmp_path: Path) -> None:
    """Removing deletes the directory and nothing beside it."""
    (tmp_path / "neighbour").write_text("mine")
    store = new_store(tmp_path)
    add_source(store, numbered(3))
    store.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["neighbour"]


# --- a kill while store.json is written


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_kill_leaves_the_old_manifest_or_the_new_one(tmp_path: Path, moment: str) -> None:
    """Died in the middle of publishing store.json, a process leaves one whole manifest."""
    store = new_store(tmp_path)
    add_source(store, numbered(3))
    old = (store.root / "store.json").read_bytes()
    new = json.dumps(MANIFEST).encode()
    died = run(
        f"""
        def write(temporary):
            if {moment!r} == "before":
                os._exit(9)
            with temporary.open("wb") as file:
                file.write({new!r}[: 40 if {moment!r} == "within" else None])
                file.flush()
                if {moment!r} == "within":
                    os._exit(9)

        publish(root / "store.json", write)
        os._exit(9)
        """,
        store.root,
    )
    assert died == 9
    assert (store.root / "store.json").read_bytes() == (new if moment == "after" else old)
    opened = Store.open(store.root)
    assert opened.manifest.id == (MANIFEST["id"] if moment == "after" else store.manifest.id)
    assert opened.sweep() == (moment == "within")
    assert [path.name for path in store.root.glob("store.json*")] == ["store.json"]


def test_an_error_while_publishing_leaves_no_trace(tmp_path: Path) -> None:
    """A full disk, say, leaves the old file and no temporary one."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    store = new_store(tmp_path)
    old = (store.root / "store.json").read_bytes()
    with pytest.raises(OSError, match="No space"):
        publish(store.root / "store.json", write)
    assert {path.name for path in store.root.iterdir()} == {"store.json", ".locks"}
    assert (store.root / "store.json").read_bytes() == old


def run(script: str, root: Path) -> int:
    """Run a few lines in a new process, with `root` and what a store needs; return how it ended."""
    header = (
        "import os, sys\nfrom pathlib import Path\n"
        "from fungistore.store.store import Store\nfrom fungistore.store.durable import publish\n"
        f"root = Path({str(root)!r})\n"
    )
    return subprocess.run(
        [sys.executable, "-c", header + textwrap.dedent(script)], check=False
    ).returncode
