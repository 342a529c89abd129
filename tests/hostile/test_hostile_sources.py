"""Sources that lie: archives, links, manifests and lists, through the whole command."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_world import NAMES, assert_tame, document, fungi, snapshot
from PIL import Image

from fungistore.store.store import Store
from tiny_world import write_images


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (9, 99, 200)).save(stream, "PNG")
    return stream.getvalue()


def test_an_archive_leaves_its_folder_alone(tmp_path: Path, quick: list[object]) -> None:
    """Names with .. and absolute ones, links and devices: nothing is written, nothing is opened."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    data = tmp_path / "in" / "data"
    data.mkdir(parents=True)
    with tarfile.open(data / "a.tar", "w") as tar:
        for name in ("../../up.png", "/tmp/abs.png", "ok.png", f"x{NAMES['escapes']}.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture())
            tar.addfile(member, io.BytesIO(picture()))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"kind{kind.decode()}.png")
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
    before = snapshot(tmp_path / "in")
    store = tmp_path / "s.fungi"
    done = fungi("extract", data, store, *quick)
    assert_tame(done)
    assert done.exit_code == 0, done.stderr
    ids = [row["id"] for row in Store.open(store).samples.rows(0, 99)]
    assert ids[:3] == ["a.tar/../../up", "a.tar//tmp/abs", "a.tar/ok"]
    assert len(ids) == 4
    assert snapshot(tmp_path / "in") == before
    assert not Path("/tmp/abs.png").exists()


def test_links_are_followed_and_circles_end(tmp_path: Path, quick: list[object]) -> None:
    """Links in a folder mean what they mean to every program: their targets, each folder once.

    That is the policy: a folder source is trusted as far as its links, as with tar or ls.
    """
    data = tmp_path / "data"
    write_images(data / "cat", 2)
    write_images(tmp_path / "elsewhere", 1)
    (data / "dog").symlink_to(tmp_path / "elsewhere")
    (data / "cat" / "loop").symlink_to(data)
    (tmp_path / "elsewhere" / "back").symlink_to(data / "cat")
    (data / "cat" / "self.jpg").symlink_to("self.jpg")
    (data / "cat" / "device.jpg").symlink_to("/dev/zero")
    (data / "cat" / "text.jpg").symlink_to("/etc/passwd")
    os.mkfifo(data / "cat" / "pipe.jpg")
    began = time.monotonic()
    done = fungi("extract", data, tmp_path / "s.fungi", *quick)
    assert time.monotonic() - began < 30
    assert done.exit_code == 3
    store = Store.open(tmp_path / "s.fungi")
    ids = [row["id"] for row in store.samples.rows(0, 99)]
    assert {"cat/000.jpg", "dog/000.jpg", "dog/back/000.jpg"} <= set(ids)
    assert not any("device" in name or "pipe" in name for name in ids)
    failures = {failure.uri: failure.message for failure in store.failures()}
    assert set(failures) == {name for name in ids if name.endswith(("self.jpg", "text.jpg"))}
    assert "root:" not in (store.root / "failures.jsonl").read_text()


MANIFESTS = {
    "no columns": b"",
    "only a header": b"path\n",
    "other columns": b"a,b\n1,2\n",
    "the same column twice": b"path,path\na,b\n",
    "an unclosed quote": b'path,label\nx.jpg,"a\n' + b"y.jpg,b\n" * 1000,
    "NUL bytes": b"path\n\0\0\0\n",
    "binary": bytes(range(256)) * 100,
    "not UTF-8": b"path,label\nx.jpg,\xff\xfe\n",
    "more cells than columns": b"path\nx.jpg,1,2\n",
    "the same id twice": b"path,id\nok.jpg,1\nok.jpg,1\n",
    "a path of 10 MB": b"path\n" + b"x" * 10_000_000 + b"\n",
    "a label of 10 MB": b"path,label\nok.jpg," + b"x" * 10_000_000 + b"\n",
    "a million columns": b"path," + b",".join(b"c%d" % n for n in range(1_000_000)) + b"\n",
    "a URL": b"path\nhttp://127.0.0.1:9/x.jpg\nfile:///etc/passwd\n",
    "a device": b"path\n/dev/zero\n/dev/stdin\n/proc/self/mem\n",
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_malformed_manifests_end_in_a_message(
    tmp_path: Path, quick: list[object], kind: str
) -> None:
    """Exit 2 or 3 in bounded time, with a message that can be shown, and no half-made store."""
    write_images(tmp_path, 1)
    (tmp_path / "000.jpg").rename(tmp_path / "ok.jpg")
    (tmp_path / "m.csv").write_bytes(MANIFESTS[kind])
    began = time.monotonic()
    done = fungi("extract", tmp_path / "m.csv", tmp_path / "s.fungi", *quick, "--json")
    assert time.monotonic() - began < 30
    assert_tame(done)
    document(done)
    assert done.exit_code in (1, 2, 3), done.stderr
    assert len(done.stderr) < 100_000
    if done.exit_code == 2:
        assert not (tmp_path / "s.fungi").exists()


def test_formulas_and_marks_in_a_manifest_are_only_text(
    tmp_path: Path, quick: list[object]
) -> None:
    """A byte-order mark, quoted cells, formulas as labels and ids: kept, and shown as text.

    Of a label, blanks around are none of it.
    """
    write_images(tmp_path, 2)
    formulas = ["=cmd|' /C calc'!A0", "+1+1", "-2", "@SUM(A1)", "\t=1"]
    quoted = [f'"{text}"' for text in formulas]
    lines = [f"000.jpg,{text},{text}" for text in quoted]
    text = "\ufeffpath,label,id\r\n" + "\r\n".join(lines) + "\r\n"
    (tmp_path / "m.csv").write_text(text, encoding="utf-8", newline="")
    done = fungi("extract", tmp_path / "m.csv", tmp_path / "s.fungi", *quick)
    assert done.exit_code == 0, done.stderr
    store = Store.open(tmp_path / "s.fungi")
    assert [row["id"] for row in store.samples.rows(0, 9)] == formulas
    assert set(store.manifest.labels) == {text.strip() for text in formulas}
    assert_tame(fungi("status", store.root))


@pytest.mark.parametrize("kind", ["text", "cut", "lists", "a footer that lies", "nested"])
def test_parquet_manifests_that_lie(tmp_path: Path, quick: list[object], kind: str) -> None:
    """What calls itself Parquet and is not, or not a table of paths, is refused by name."""
    path = tmp_path / "m.parquet"
    column = pa.array([["a"], ["b"]]) if kind == "lists" else pa.array(["a", "b"])
    if kind == "nested":
        column = pa.array([{"path": "a"}, {"path": "b"}])
    pq.write_table(pa.table({"path": column}), path)
    data = path.read_bytes()
    if kind == "text":
        path.write_text("path\na.jpg\n")
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "a footer that lies":
        path.write_bytes(data[:-8] + b"\xff\xff\xff\x7f" + b"PAR1")
    done = fungi("extract", path, tmp_path / "s.fungi", *quick)
    assert done.exit_code == 2, done.stderr
    assert_tame(done)
    assert not (tmp_path / "s.fungi").exists()


def test_a_configuration_is_data(tmp_path: Path, quick: list[object]) -> None:
    """TOML and JSON files for --config: unknown keys, wrong types, deep nesting, odd bytes."""
    write_images(tmp_path / "data", 1)
    config = tmp_path / "c.toml"
    for content in (
        b"\xff\xfe",
        b'"\\u001b[31m\\nerror: forged" = 1\n',
        b"seed = '\\x1b[31m'\n",
        b"model = 1979-05-27T07:32:00Z\n",
        b'weights = "/dev/zero"\n',
        b"[gradient]\nprojection = 3\n",
        b"\0",
        b"a = " + b"[" * 50_000,
    ):
        config.write_bytes(content)
        done = fungi("extract", tmp_path / "data", tmp_path / "s.fungi", "--config", config)
        assert_tame(done)
        assert done.exit_code == 2, (content[:40], done.stderr)
        assert "unexpected error" not in done.stderr
