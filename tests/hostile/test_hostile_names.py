"""Names that would steer a terminal, forge lines or be taken for markup: every command shows them.

Shown means escaped where a terminal would obey, and as they are everywhere else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hostile_world import ESCAPES, NAMES, assert_tame, document, fungi, store_of
from PIL import Image

from fungistore.location import path_to_uri
from tiny_world import write_images

LABELS = ["[red]cat[", f"dog{ESCAPES}\nerror: forged", ":smile:", "\u202erid"]


def label_of(name: str) -> str:
    return LABELS[0] if name in (NAMES["markup"], NAMES["emoji name"]) else LABELS[len(name) % 4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sound and broken images under every hostile name."""
    root = tmp_path / "data"
    write_images(root / "plain", 1)
    for name in NAMES.values():
        label = label_of(name)
        (root / label).mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (len(name) * 5, 99, 50)).save(root / label / name, "JPEG")
        (root / label / f"broken {name}").write_text("no image")
    return root


def test_an_extraction_and_what_follows_show_hostile_names(
    folder: Path, tmp_path: Path, quick: list[object]
) -> None:
    """extract, status, index, search, eval, verify and export; on a terminal and as JSON."""
    store = tmp_path / "s.fungi"
    done = fungi("extract", folder, store, *quick)
    assert_tame(done)
    assert done.exit_code == 3, done.stderr
    sample = path_to_uri(f"[red]cat[/{NAMES['markup']}")
    emoji = f"[red]cat[/{NAMES['emoji name']}"
    for command, code in (
        (("extract", folder, store, *quick, "--retry-failed"), 3),
        (("status", store), 0),
        (("index", store), 0),
        (("search", store, sample, emoji, f"gone{ESCAPES}\n", folder / "plain/000.jpg"), 3),
        (("eval", "knn", store, "--holdout", 0.5, "--k", 1), None),
        (("verify", store), 0),
        (("export", store, tmp_path / "out.npy"), 0),
        (("extract", folder / f"none{ESCAPES}\nerror: forged", store, *quick), 2),
        (("extract", folder, store, *quick, "--features", f"x{ESCAPES}\nerror: forged"), 2),
        (("status", tmp_path / f"{ESCAPES}\nnext: rm"), 2),
        (("search", store, sample, "--index", f"{ESCAPES}\nerror: forged"), 2),
        (("eval", "knn", store, "--pca", f"{ESCAPES}\nerror: forged"), 2),
        ((f"no{ESCAPES}\nerror: forged",), 2),
        (("status", f"--{ESCAPES}"), 2),
    ):
        shown = fungi(*command)
        assert_tame(shown)
        assert code in (None, shown.exit_code), (command, shown.stderr)
        if len(command) > 1:
            assert_tame(fungi(*command, "--json"))


def test_names_are_shown_as_they_are(folder: Path, tmp_path: Path, quick: list[object]) -> None:
    """Markup and emoji names are no markup; what is escaped can still be told apart."""
    store = tmp_path / "s.fungi"
    fungi("extract", folder, store, *quick)
    fungi("index", store)
    shown = fungi("search", store, f"[red]cat[/{NAMES['emoji name']}", "--k", 20).stdout
    shown = "".join(shown.split())
    for text in ("[red]cat[/][red]a[link=x]b[blink].jpg", ":smile::boom:.jpg"):
        assert text in shown
    assert r"\u202egpj.exe\u2066\u200f" in shown
    assert r"a\nerror:forged\r" in shown
    assert "caf%E9%FF.jpg" in shown
    status = fungi("status", store).stdout
    assert ":smile:" in status
    assert "[red]cat[" in status


def test_json_has_the_names_themselves(folder: Path, tmp_path: Path, quick: list[object]) -> None:
    """--json escapes nothing but what JSON does: the ids go back in as they came out."""
    store = tmp_path / "s.fungi"
    fungi("extract", folder, store, *quick)
    fungi("index", store)
    listed = fungi("search", store, "plain/000.jpg", "--k", 50, "--json")
    ids = [one["id"] for one in document(listed)["answers"][0]["neighbours"]]
    for name in NAMES.values():
        assert path_to_uri(f"{label_of(name)}/{name}") in ids
    again = fungi("search", store, *[i for i in ids if not i.startswith("-")], "--json")
    assert [answer["query"] for answer in document(again)["answers"]] == ids


def test_a_list_on_stdin_with_hostile_names(
    folder: Path, tmp_path: Path, quick: list[object]
) -> None:
    """NUL-separated for extract, by lines for search: odd bytes, long lines and NULs are names."""
    paths = [path for path in sorted(folder.rglob("*.jpg")) if "broken" not in path.name]
    listing = b"\0".join(os.fsencode(path) for path in paths) + b"\0/gone\x1b[31m.jpg\0"
    store = tmp_path / "s.fungi"
    done = fungi("extract", "-", store, *quick, stdin=listing)
    assert_tame(done)
    assert done.exit_code == 3
    assert "1 failed" in done.stdout
    fungi("index", store)
    lines = b"x" * 10_000_000 + b"\n\xff\xfe\x1b[31m\n\0\n\n" + os.fsencode(paths[0]) + b"\n"
    for as_json in ([], ["--json"]):
        searched = fungi("search", store, "-", *as_json, stdin=lines)
        assert_tame(searched)
        assert searched.exit_code == 3
    assert len(document(searched)["answers"]) == 1
    assert len(searched.stderr) < 10_000
    too_long = fungi("extract", "-", tmp_path / "t.fungi", *quick, stdin=b"x" * 10_000_000)
    assert_tame(too_long)
    assert too_long.exit_code == 2


def test_a_store_that_lies_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Roots, labels, splits, failures, records: what status and verify print of them is escaped."""
    evil = f"{ESCAPES}\nerror: forged\u202e[red]"
    store = store_of(tmp_path / "s.fungi", [f"{n}{evil}" for n in range(16)], ["a", evil] * 8, evil)
    line = {"row": 3, "uri": evil, "error": evil, "message": evil, "feature_set": "set"}
    (store.root / "failures.jsonl").write_text(json.dumps(line) + "\n")
    fungi("index", store.root)
    for command in (
        ("status", store.root),
        ("eval", "knn", store.root, "--holdout", 0.5, "--k", 1),
        ("eval", "linear", store.root, "--holdout", 0.5),
        ("eval", "compare", store.root, "--a", "embeddings", "--b", "embeddings"),
        ("search", store.root, f"3{evil}"),
    ):
        assert_tame(fungi(*command))
        assert_tame(fungi(*command, "--json"))
    (array,) = store.arrays("set").values()
    for path in (store.root / "commits/set/embeddings").iterdir():
        record = json.loads(path.read_bytes()) | {
            "fingerprint": evil,
            "checksum": evil,
            "ids": evil,
        }
        path.write_text(json.dumps(record))
    manifest = json.loads((store.root / "store.json").read_bytes())
    manifest |= {"labels": [evil, evil], "id": evil}
    manifest["parts"][0]["root"] = evil
    (store.root / "store.json").write_text(json.dumps(manifest))
    metadata = array.chunk_path(0).parents[2] / "zarr.json"
    edited = json.loads(metadata.read_bytes())
    edited["attributes"] = {"fingerprint": evil, "codec": evil}
    metadata.write_text(json.dumps(edited))
    for command in ("status", "verify", "index"):
        assert_tame(fungi(command, store.root))
        assert_tame(fungi(command, store.root, "--json"))
    assert fungi("verify", store.root).exit_code == 5
