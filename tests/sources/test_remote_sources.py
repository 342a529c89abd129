"""Sources at URLs: what is made of them is what is made of the same files on a disk."""

from __future__ import annotations

import csv
import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fungistore as fungi
from fault_proxy import Faults, proxied
from fungistore.errors import UnreachableError, UsageError
from fungistore.modalities import fetching
from fungistore.remote import bucket as buckets
from fungistore.remote.bucket import open_bucket
from fungistore.remote.files import RemoteFile
from fungistore.sources.opening import open_source
from fungistore.store.store import Store
from s3_world import bucket, s3_server  # noqa: F401
from serving import Serving
from stage_world import FUNGI
from tiny_world import TINY, contents, write_images

SECRET = "deadbeefsignature"


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets a listing, or a server, of another."""
    monkeypatch.setenv("FUNGI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "_REACHED", fetching._Reachability())


def upload(folder: Path, url: str) -> None:
    """Put all files below a folder."""
    place = open_bucket("/".join(url.split("/")[:3]))
    prefix = "/".join(url.split("/")[3:])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = "/".join(filter(None, [prefix, path.relative_to(folder).as_posix()]))
            place.put(key, path.read_bytes())


def pack(folder: Path, images: Path, shards: int = 2, each: int = 6) -> None:
    """Write shards of images with their classes."""
    folder.mkdir(parents=True)
    files = sorted(images.rglob("*.jpg"))
    for number in range(shards):
        with tarfile.open(folder / f"train-{number:02d}.tar", "w") as tar:
            for at, path in enumerate(files[number * each : (number + 1) * each]):
                for suffix, content in (("jpg", path.read_bytes()), ("cls", str(at % 2).encode())):
                    info = tarfile.TarInfo(f"{number}-{at:03d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def extract(
    source: Any, store: Path, weights: Path, *, retry_failed: bool = False, **settings: Any
) -> Any:
    """Extract with the tiny model, in units of one size: the automatic one is measured."""
    options = fungi.ExtractOptions(
        model=TINY,
        weights=weights,
        features=("embeddings",),
        workers=2,
        batch_size=8,
        unit_rows=16,
        **settings,
    )
    return fungi.extract(source, store, options, retry_failed=retry_failed)


def samples_of(store: Path) -> list[dict[str, Any]]:
    table = Store.open(store).samples
    return table.rows(0, len(table))


def ids_and_uris(source: Any) -> list[tuple[Any, ...]]:
    return [(s.id, s.uri, s.label, s.split, s.bytes, s.cells) for s in source]


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """A web server that gives parts of files, as most do."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, directory=str(self.folder), **options)

    folder: Path
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Serve a file, or a part."""
        self.asked.append(self.path)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, asked = path.read_bytes(), self.headers.get("Range")
        status = 200
        whole = len(data)
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            if int(first) >= whole:
                self.send_error(416)
                return
            stop = min(whole, int(last) + 1)
            data, status = data[int(first) : stop], 206
        self.send_response(status)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{whole}")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's URL, and the folder that it serves."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = type("Handler", (_Ranges,), {"folder": folder, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
    finally:
        server.shutdown()
        server.server_close()


def test_shards_at_a_url_make_the_store_of_shards_on_a_disk(
    tmp_path: Path,
    images: Path,
    tiny_weights: Path,
    bucket: str,  # noqa: F811
) -> None:
    """Same ids, labels, places in the shards, and the same bits in every file of features."""
    pack(tmp_path / "shards", images)
    upload(tmp_path / "shards", f"{bucket}/sets/shards")
    extract(str(tmp_path / "shards" / "train-{00..01}.tar"), tmp_path / "local.fungi", tiny_weights)
    extract(f"{bucket}/sets/shards/train-{{00..01}}.tar", tmp_path / "url.fungi", tiny_weights)
    here, there = (samples_of(tmp_path / f"{name}.fungi") for name in ("local", "url"))
    kept = ("row", "id", "uri", "label", "split", "bytes")
    assert [[row[k] for k in kept] for row in here] == [[row[k] for k in kept] for row in there]
    assert len(there) == 12
    assert {row["root"] for row in there} == {f"{bucket}/sets/shards"}
    one, other = contents(tmp_path / "local.fungi"), contents(tmp_path / "url.fungi")
    assert one.keys() == other.keys()
    assert [name for name in one if name.startswith("features") and one[name] != other[name]] == []
    assert any(name.startswith("features.zarr") and "/c/" in name for name in one)


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_source_that_moves_to_a_url_is_recognised(
    tmp_path: Path,
    images: Path,
    tiny_weights: Path,
    bucket: str,  # noqa: F811
    is_kept: bool,
) -> None:
    """Nothing is computed again, whether the folder is still there or not; and back again."""
    pack(tmp_path / "shards", images)
    upload(tmp_path / "shards", f"{bucket}/shards")
    store = tmp_path / "moved.fungi"
    extract(str(tmp_path / "shards"), store, tiny_weights)
    before = contents(store)
    if not is_kept:
        shutil.rmtree(tmp_path / "shards")
    found = extract(f"{bucket}/shards", store, tiny_weights)
    assert found.images_computed == 0
    assert len(samples_of(store)) == 12
    after = contents(store)
    chunks = [name for name in before if "/c/" in name]
    assert chunks
    assert [name for name in chunks if before[name] != after.get(name)] == []
    if not is_kept:
        assert {row["root"] for row in samples_of(store)} == {f"{bucket}/shards"}
    assert [*fungi.failed_inputs(store)] == []


def test_folders_tables_and_lists_at_a_url_are_listed_as_on_a_disk(
    tmp_path: Path,
    images: Path,
    bucket: str,  # noqa: F811
) -> None:
    """A prefix with splits and classes, Parquet of bytes, and tables of paths relative to them."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        shutil.copytree(images, root / "folder" / split)
    odd = root / "folder" / "train" / "cat" / "odd é#x=1 (2).jpg"
    shutil.copy(next(images.rglob("*.jpg")), odd)
    (root / "folder" / "train" / "notes.txt").write_text("no image")
    files = sorted((root / "folder").rglob("*.jpg"))
    (root / "lists").mkdir()
    with (root / "lists" / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "age"])
        rows.writerows([f"../{path.relative_to(root)}", path.parent.name, 3] for path in files)
    lines = [json.dumps({"path": str(path.relative_to(root)), "label": "a"}) for path in files]
    (root / "list.jsonl").write_text("\n".join(lines))
    table = pa.table(
        {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path in files],
            "label": [path.parent.name for path in files],
        }
    )
    (root / "rows").mkdir()
    pq.write_table(table, root / "rows" / "train-0.parquet", row_group_size=7)
    pq.write_table(table.slice(3), root / "rows" / "val-1.parquet", row_group_size=7)
    upload(root, f"{bucket}/data")
    names = ("folder", "lists/list.csv", "list.jsonl", "rows", "rows/train-0.parquet")
    for name in names:
        here, there = open_source(str(root / name)), open_source(f"{bucket}/data/{name}")
        assert ids_and_uris(there) == ids_and_uris(here), name
        assert there.label_names() == here.label_names(), name
        assert len(ids_and_uris(there)) >= len(files), name
    assert dict(open_source(f"{bucket}/data/folder").ignored()) == {}
    (root / "list.txt").write_text("\n".join(str(path.relative_to(root)) for path in files))
    upload(root, f"{bucket}/data")
    listed = ids_and_uris(open_source(f"{bucket}/data/list.txt"))
    assert [one[0] for one in listed] == [str(path.relative_to(root)) for path in files]
    assert [one[4] for one in listed] == [path.stat().st_size for path in files]


@pytest.mark.slow
def test_rows_of_parquet_and_tables_at_a_url_give_the_bits_of_a_disk(
    tmp_path: Path,
    images: Path,
    tiny_weights: Path,
    bucket: str,  # noqa: F811
) -> None:
    """Decoding processes get what was fetched for them, so they make the same too."""
    files = sorted(images.rglob("*.jpg"))
    root = tmp_path / "rows"
    root.mkdir()
    pq.write_table(
        pa.table({"image": [{"bytes": path.read_bytes(), "path": None} for path in files]}),
        root / "train.parquet",
        row_group_size=7,
    )
    upload(root, f"{bucket}/rows")
    extract(str(root), tmp_path / "a.fungi", tiny_weights)
    extract(f"{bucket}/rows", tmp_path / "b.fungi", tiny_weights, decode_in="processes")
    one, other = contents(tmp_path / "a.fungi"), contents(tmp_path / "b.fungi")
    chunks = [name for name in one if "/c/" in name]
    assert chunks
    assert [name for name in chunks if one[name] != other[name]] == []


def test_a_web_server_is_read_by_parts(
    tmp_path: Path, images: Path, tiny_weights: Path, web: tuple[str, Path]
) -> None:
    """A tar at http://, and a list of URLs on standard input, whose names are percent-encoded."""
    url, folder = web
    pack(folder / "my shards", images)
    extract(f"{url}/my%20shards/train-00.tar", tmp_path / "w.fungi", tiny_weights)
    extract(str(folder / "my shards" / "train-00.tar"), tmp_path / "l.fungi", tiny_weights)
    kept = ("id", "uri", "label", "bytes")
    here, there = (samples_of(tmp_path / name) for name in ("l.fungi", "w.fungi"))
    assert [[r[k] for k in kept] for r in here] == [[r[k] for k in kept] for r in there]
    one, other = contents(tmp_path / "l.fungi"), contents(tmp_path / "w.fungi")
    assert [name for name in one if "/c/" in name and one[name] != other[name]] == []
    shutil.copy(next(images.rglob("*.jpg")), folder / "a b#1.jpg")
    lines = io.BytesIO(f"{url}/a%20b%231.jpg\n{url}/none.jpg\n".encode())
    found = [*open_source("-", lines)]
    assert [one.bytes for one in found] == [(folder / "a b#1.jpg").stat().st_size, None]
    with pytest.raises(UsageError, match="does not list"):
        open_source(f"{url}/my%20shards/")


def test_one_broken_object_is_one_failed_input(
    tmp_path: Path,
    images: Path,
    tiny_weights: Path,
    bucket: str,  # noqa: F811
) -> None:
    """It is listed, the others are made; once it is there again, a retry makes it."""
    upload(images, f"{bucket}/images")
    files = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.jpg"))
    (tmp_path / "list.csv").write_text(
        "path\n" + "\n".join(f"{bucket}/images/{name}" for name in files)
    )
    broken = f"images/{files[5]}"
    place, whole = open_bucket(bucket), (images / files[5]).read_bytes()
    place.delete([broken])
    place.put(f"images/{files[7]}", b"")
    place.put(f"images/{files[9]}", whole[:300])
    store = tmp_path / "s.fungi"
    found = extract(str(tmp_path / "list.csv"), store, tiny_weights)
    failed = [*fungi.failed_inputs(store)]
    assert [one.row for one in failed] == [5, 7, 9]
    assert failed[0].path == f"{bucket}/{broken}"
    assert "no such object" in failed[0].message
    assert found.failed == 3
    place.put(broken, whole)
    place.put(f"images/{files[7]}", whole)
    place.put(f"images/{files[9]}", whole)
    extract(str(tmp_path / "list.csv"), store, tiny_weights, retry_failed=True)
    assert [*fungi.failed_inputs(store)] == []


def test_a_server_that_is_down_ends_the_run_and_fails_no_input(
    tmp_path: Path,
    images: Path,
    tiny_weights: Path,
    bucket: str,  # noqa: F811
    s3_server: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 24 images of a server that answers no more, none is a failed one; the next run goes on."""
    monkeypatch.setattr(buckets, "RETRIES", 1)
    upload(images, f"{bucket}/images")
    faults = Faults(kinds=("cut-before",))
    with proxied(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        open_bucket.cache_clear()
        store = tmp_path / "s.fungi"
        extract(f"{bucket}/images", store, tiny_weights, limit=4)
        source = open_source(f"{bucket}/images")
        listed = [*source]
        assert len(listed) == 24
        monkeypatch.setattr(type(source), "__iter__", _then_broken(faults, listed))
        with pytest.raises(UnreachableError, match="the server or the credentials") as raised:
            extract(f"{bucket}/images", store, tiny_weights)
        assert bucket in str(raised.value.where)
        assert "a-secret-of-tests" not in str(raised.value)
        monkeypatch.undo()
    for name, value in (("AWS_ENDPOINT_URL", s3_server),):
        monkeypatch.setenv(name, value)


def _then_broken(faults: Faults, listed: list[Any]) -> Any:
    def samples(_: object) -> Iterator[Any]:
        yield from listed
        faults.rate = 1.0

    return samples


def test_refused_credentials_end_the_run(
    tmp_path: Path,
    images: Path,
    tiny_weights: Path,
    web: tuple[str, Path],
) -> None:
    """A place that refuses everything is one error; what was refused alone is a failed input."""
    _, folder = web
    shutil.copytree(images, folder / "images")
    handler = _refusing(folder, lambda path: True)
    with Serving(handler) as refusing:
        names = sorted(p.relative_to(folder).as_posix() for p in (folder / "images").rglob("*.jpg"))
        (tmp_path / "list.csv").write_text("path\n" + "\n".join(f"{refusing}/{n}" for n in names))
        with pytest.raises(UnreachableError, match="credentials") as raised:
            extract(str(tmp_path / "list.csv"), tmp_path / "none.fungi", tiny_weights)
        assert "AWS_PROFILE" in (raised.value.hint or "")
    fetching._REACHED.refused = 0
    with Serving(_refusing(folder, lambda path: "dog" in path)) as refusing:
        (tmp_path / "list.csv").write_text("path\n" + "\n".join(f"{refusing}/{n}" for n in names))
        found = extract(str(tmp_path / "list.csv"), tmp_path / "some.fungi", tiny_weights)
        assert found.failed == 12


def _refusing(folder: Path, refuses: Any) -> type:
    def answer(self: Any) -> None:
        if refuses(self.path):
            self.send_error(403)
        else:
            _Ranges.do_GET(self)

    return type("Refusing", (_Ranges,), {"folder": folder, "asked": [], "do_GET": answer})


def test_no_signature_is_kept(
    tmp_path: Path, images: Path, tiny_weights: Path, web: tuple[str, Path]
) -> None:
    """A signed URL is refused as a source; in a list it a failed input; no file has its query."""
    url, folder = web
    shutil.copy(next(images.rglob("*.jpg")), folder / "a.jpg")
    signed = [f"{url}/a.jpg?X-Amz-Signature={SECRET}{number}" for number in range(2)]
    secret_host = url.replace("://", f"://user:{SECRET}@")
    for source in (f"{url}/x.tar?X-Amz-Signature={SECRET}", f"{secret_host}/x.tar"):
        with pytest.raises(UsageError) as raised:
            open_source(source)
        assert SECRET not in str(raised.value)
    listed = [*signed, f"{secret_host}/a.jpg", f"{url}/a.jpg"]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(listed))
    store = tmp_path / "s.fungi"
    found = extract(str(tmp_path / "list.csv"), store, tiny_weights)
    assert found.failed == 3
    assert "its query is not kept" in next(iter(fungi.failed_inputs(store))).message
    held = [path for path in store.rglob("*") if path.is_file()]
    assert [path for path in held if SECRET.encode() in path.read_bytes()] == []
    uris = [row["uri"] for row in samples_of(store)]
    assert [SECRET in uri for uri in uris] == [False] * 4
    assert len(set(uris)) == 4


def test_a_listing_is_kept_and_costs_few_requests(
    tmp_path: Path,
    bucket: str,  # noqa: F811
    s3_server: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small members are streamed and large ones hopped over; a second listing reads nothing."""
    for name, count, size in (("small", 3000, 3000), ("large", 6, 5 << 20)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for number in range(count):
                info = tarfile.TarInfo(f"{number:05d}.jpg")
                info.size = size
                tar.addfile(info, io.BytesIO(bytes([number % 251]) * size))
        open_bucket(bucket).put(f"{name}.tar", (tmp_path / f"{name}.tar").read_bytes())
    faults = Faults()
    with proxied(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        open_bucket.cache_clear()
        for name, requests, most in (("small", 20, 13 << 20), ("large", 20, 2 << 20)):
            before = faults.requests.total(), faults.bytes
            there = ids_and_uris(open_source(f"{bucket}/{name}.tar"))
            asked, sent = faults.requests.total() - before[0], faults.bytes - before[1]
            assert there == ids_and_uris(open_source(str(tmp_path / f"{name}.tar")))
            assert asked <= requests
            assert sent <= most
            sent = faults.bytes
            assert ids_and_uris(open_source(f"{bucket}/{name}.tar")) == there
            assert faults.bytes - sent < 1000
        open_bucket(bucket).put("small.tar", (tmp_path / "large.tar").read_bytes())
        assert len(ids_and_uris(open_source(f"{bucket}/small.tar"))) == 6
    open_bucket.cache_clear()


def test_a_file_at_a_url_reads_as_one_of_a_disk(
    bucket: str,  # noqa: F811
) -> None:
    """Any seeks and reads, in both ways of reading, give the bytes that are there."""
    import random

    content = random.Random(0).randbytes(20_000_003)
    open_bucket(bucket).put("a.bin", content)
    for is_streamed in (False, True):
        chance = random.Random(1)
        with RemoteFile(f"{bucket}/a.bin", is_streamed=is_streamed) as file:
            place = 0
            for _ in range(120):
                place = chance.choice(
                    [place, place + chance.randrange(3_000_000), chance.randrange(len(content))]
                )
                size = chance.choice([0, 1, 512, 70_000, 9_000_000])
                file.seek(place)
                expected = content[place : place + size]
                assert file.read(size) == expected
                place += len(expected)
                assert file.tell() == place


@pytest.mark.slow
def test_items_are_fetched_ahead_many_at_once(
    tmp_path: Path,
    tiny_weights: Path,
    bucket: str,  # noqa: F811
    s3_server: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers do not wait for 20 ms an image; neighbours in a shard share a request."""
    write_images(tmp_path / "images", 192)
    pack(tmp_path / "shards", tmp_path / "images", 2, 96)
    upload(tmp_path / "images", f"{bucket}/images")
    upload(tmp_path / "shards", f"{bucket}/shards")
    faults = Faults(latency=0.02)
    with proxied(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        open_bucket.cache_clear()
        asked = {}
        for name in ("images", "shards"):
            source = [*open_source(f"{bucket}/{name}")]
            before, faults.most = faults.requests["GET"], 0
            extract(f"{bucket}/{name}", tmp_path / f"{name}.fungi", tiny_weights)
            asked[name] = (faults.requests["GET"] - before) / len(source)
            assert [*fungi.failed_inputs(tmp_path / f"{name}.fungi")] == []
            assert faults.most >= (16 if name == "images" else 2)
    open_bucket.cache_clear()
    assert asked["images"] < 1.3
    assert asked["shards"] < 0.3


@pytest.mark.slow
def test_what_reads_a_store_reads_its_items_at_their_urls(
    tmp_path: Path,
    images: Path,
    tiny_weights: Path,
    bucket: str,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Dry run, status, verify, search by id and by URL with its page, and the table of samples."""
    upload(images, f"{bucket}/img")
    store = tmp_path / "s.fungi"
    words = [TINY, "--weights", str(tiny_weights), "--features", "embeddings"]
    asked = ["extract", f"{bucket}/img/", str(store), "--model", *words]
    assert _fungi([*asked, "--dry-run"]) == 0
    assert not store.exists()
    assert _fungi(asked) == 0
    assert _fungi(["status", str(store)]) == 0
    assert _fungi(["verify", str(store)]) == 0
    assert _fungi(["index", str(store), "--features", "embeddings"]) == 0
    page = tmp_path / "page.html"
    queries = ["cat/000.jpg", f"{bucket}/img/dog/001.jpg"]
    capsys.readouterr()
    assert _fungi(["search", str(store), *queries, "--html", str(page), "--k", "3"]) == 0
    shown = page.read_text()
    assert shown.count("<img") == 8
    assert "missing" not in shown
    found = [*fungi.Store.open(store).to_pandas()["path"]]
    assert found[0] == f"{bucket}/img/cat/000.jpg"
    open_bucket(bucket).delete(["img/cat/000.jpg"])
    assert _fungi(["search", str(store), "cat/000.jpg", "--html", str(page), "--k", "3"]) == 0
    assert page.read_text().count("<img") < 4
    told = capsys.readouterr()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in told.out + told.err + shown


def _fungi(words: list[str]) -> int:
    """Run a command as a process of its own, as people do; what it says is printed."""
    found = subprocess.run([*FUNGI, *words], capture_output=True, text=True, timeout=120)
    print(found.stdout, found.stderr)
    return found.returncode
