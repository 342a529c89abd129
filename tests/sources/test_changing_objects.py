"""Objects that are replaced while they are read, listings that are damaged, servers that lack much.

Parts of two objects are never put together, and an item of another one is never taken for one.
"""

from __future__ import annotations

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fungistore.errors import FungiError, UnreachableError
from fungistore.extraction import fetcher as fetchers
from fungistore.extraction.fetcher import Fetcher
from fungistore.extraction.plan import BatchPlan
from fungistore.location import Location, contained_uri, mark_of
from fungistore.machine.user_cache import user_cache
from fungistore.modalities import fetching
from fungistore.modalities.fetching import fetch, group
from fungistore.remote import files
from fungistore.remote.bucket import ChangedError, forget_buckets, open_bucket
from fungistore.remote.files import RemoteFile, local_copy
from fungistore.sources.opening import open_source
from fungistore.sources.shard_members import ShardMembers
from s3_world import bucket, s3_server  # noqa: F401

ITEMS = 12


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets a listing, or a server, of another."""
    monkeypatch.setenv("FUNGI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "_REACHED", fetching._Reachability())


def rows(seed: int, size: int = 100_000) -> tuple[bytes, list[bytes]]:
    """Return a Parquet file of items, and these; all seeds give files of one length."""
    random, stream = np.random.default_rng(seed), io.BytesIO()
    items = [random.bytes(size) for _ in range(ITEMS)]
    table = pa.table({"image": items})
    pq.write_table(table, stream, row_group_size=2, compression="none", use_dictionary=False)
    return stream.getvalue(), items


def packed(content: bytes, label: str, count: int = 60) -> bytes:
    """Return a shard; of one length for all contents of one."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(count):
            for suffix, data in (("jpg", content), ("cls", label.encode())):
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_rows_of_a_file_that_was_replaced_are_failed_inputs(
    bucket: str,  # noqa: F811
) -> None:
    """Of the same length and layout, it would give its own rows under the names of the first's."""
    (one, items), (other, _) = rows(1), rows(2)
    assert len(one) == len(other)
    url, place = f"{bucket}/x.parquet", open_bucket(bucket)
    place.put("x.parquet", one)
    mark = mark_of(url)

    def row(number: int) -> bytes | Exception:
        key = f"image,{number}"
        return fetch(Location(url, container="parquet", key=key, file_size=len(one), mark=mark))

    assert row(0) == items[0]
    place.put("x.parquet", other)
    found = row(9)
    assert isinstance(found, OSError)
    assert "replaced" in str(found)


def test_a_shard_that_is_replaced_while_it_is_listed(
    bucket: str,  # noqa: F811
) -> None:
    """Its labels are not those of two shards."""
    place = open_bucket(bucket)
    place.put("t.tar", packed(b"x" * 300_000, "0"))
    found = []

    def listed() -> None:
        with RemoteFile(f"{bucket}/t.tar", is_streamed=True) as file:
            for sample in ShardMembers(file, "t", "t.tar", None, ("jpg",)):
                found.append(sample.label)
                if len(found) == 3:
                    place.put("t.tar", packed(b"y" * 300_000, "1"))

    with pytest.raises(ChangedError):
        listed()
    assert set(found) == {"0"}


def test_a_table_that_is_replaced_while_it_is_copied(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is copied again from the beginning, and is one of the two."""
    place, asked = open_bucket(bucket), [0]
    place.put("a.csv", b"a" * (20 << 20))
    read_same = files.read_same

    def reading(*arguments: Any) -> bytes:
        asked[0] += 1
        if asked[0] == 2:
            place.put("a.csv", b"b" * (20 << 20))
        return read_same(*arguments)

    monkeypatch.setattr(files, "read_same", reading)
    assert set(Path(local_copy(f"{bucket}/a.csv")).read_bytes()) == {ord("b")}
    assert asked[0] > 3


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut", "flipped"])
def test_a_damaged_listing_is_made_anew(
    bucket: str,  # noqa: F811
    damage: str,
) -> None:
    """Whatever happened to the user's cache, the samples are the shard's."""
    open_bucket(bucket).put("a.tar", packed(b"x", "0", 5))

    def listed() -> list[tuple[str, str | None]]:
        return [(one.id, one.label) for one in open_source(f"{bucket}/a.tar")]

    expected = listed()
    assert len(expected) == 5
    (kept,) = (user_cache() / "listings").iterdir()
    whole = kept.read_bytes()
    flipped = bytes([whole[40] ^ 0xFF])
    kept.write_bytes(
        {
            "garbage": b"garbage",
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "flipped": whole[:40] + flipped + whole[41:],
        }[damage]
    )
    assert listed() == expected
    kept.unlink()
    kept.mkdir()  # what nobody expects there
    assert listed() == expected


class _Bare(http.server.BaseHTTPRequestHandler):
    """A server that tells neither tags nor times, and as much else as its class says."""

    protocol_version = "HTTP/1.1"
    data: bytes
    lacks: str

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Tell the size, or nothing."""
        if self.lacks == "HEAD":
            self.send_response_only(405)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._serve(is_head=True)

    def do_GET(self) -> None:
        """Serve the object, whatever it is called."""
        self._serve()

    def _serve(self, *, is_head: bool = False) -> None:
        data, asked, status = self.data, self.headers.get("Range"), 200
        if asked and self.lacks != "parts":
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            data, status = data[first : last + 1], 206
        self.send_response_only(status)
        if status == 206:
            end = first + len(data) - 1
            self.send_header("Content-Range", f"bytes {first}-{end}/{len(self.data)}")
        if self.lacks == "length" and is_head:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not is_head:
            self.wfile.write(data)


@pytest.fixture
def bare() -> Iterator[tuple[str, type[_Bare]]]:
    """The URL of such a server, and its class."""
    handler = type("Handler", (_Bare,), {"data": b"", "lacks": ""})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    forget_buckets()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
    finally:
        server.shutdown()
        server.server_close()


def test_listings_of_what_has_neither_tag_nor_time_are_not_kept(
    bare: tuple[str, type[_Bare]],
) -> None:
    """A shard of the same length is another one, though nothing tells."""
    url, server = bare
    for label in ("0", "1"):
        server.data = packed(b"x", label, 3)
        assert [one.label for one in open_source(f"{url}/a.tar")] == [label] * 3


@pytest.mark.parametrize("lacks", ["HEAD", "length"])
def test_servers_that_answer_no_look_are_asked_for_a_byte(
    bare: tuple[str, type[_Bare]], lacks: str
) -> None:
    """Some know no HEAD, and some tell no size to one."""
    url, server = bare
    server.lacks, server.data = lacks, packed(b"x", "0", 3)
    assert len([*open_source(f"{url}/a.tar")]) == 3
    server.data, _ = rows(1, 500)
    assert len([*open_source(f"{url}/a.parquet")]) == ITEMS
    server.data = b"path\na.jpg\n"
    assert [one.bytes for one in open_source(f"{url}/a.csv")] == [len(server.data)]


@pytest.mark.parametrize("name", ["a.tar", "a.parquet"])
def test_servers_without_parts_are_told(bare: tuple[str, type[_Bare]], name: str) -> None:
    """The network and the credentials are well, and no manifest is broken."""
    url, server = bare
    server.lacks, server.data = "parts", packed(b"x", "0", 3)
    with pytest.raises(UnreachableError) as raised:
        list(open_source(f"{url}/{name}"))
    assert "range requests" in str(raised.value.found)
    assert "download" in str(raised.value.hint)
    assert "credentials" not in str(raised.value)


def test_items_of_untold_size_do_not_fill_the_memory(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of Parquet are ahead of the model by some bytes, and not by a thousand images."""
    monkeypatch.setattr(fetchers, "BYTES_AHEAD", 1_000_000)
    data, items = rows(1)
    open_bucket(bucket).put("x.parquet", data)
    mark = mark_of(f"{bucket}/x.parquet")
    plans = (
        BatchPlan(
            0,
            [
                {
                    "root": bucket,
                    "uri": contained_uri("x.parquet", "parquet", f"image,{n}", len(data), mark),
                    "bytes": None,
                }
                for n in range(4)
            ],
            frozenset(),
            last=False,
        )
        for _ in range(50)
    )
    taken, fetcher = 0, Fetcher()

    def counted() -> Iterator[BatchPlan]:
        nonlocal taken
        for one in plans:
            taken += 1
            yield one

    ahead = fetcher.ahead(counted())
    for number in range(1, 21):
        batch = next(ahead)
        assert [one["fetched"] for one in batch.parts(4)[0].there()] == items[:4]
        assert taken - number <= 4  # of 400 kB each, where a megabyte is held
    assert taken > 20  # it is ahead
    fetcher.close()


def test_spans_of_one_object_share_its_bytes() -> None:
    """A talk of which a manifest has a hundred parts is fetched once a batch."""
    talk, other = Location("s3://b/talk.wav"), Location("s3://b/other.wav")
    assert group([talk, talk, other, talk, None, talk]) == [[0, 1], [2], [3, 5]]
    row = Location("s3://b/t.parquet", container="parquet", key="a,1")
    assert group([row, row]) == [[0], [1]]


def test_an_end_that_moved_is_no_fault_of_the_server(
    bucket: str,  # noqa: F811
) -> None:
    """Members behind the end of a shard that is shorter now are failed inputs, all of them."""
    open_bucket(bucket).put("a.tar", b"x" * 1000)
    for number in range(2 * fetching.REFUSED_IN_A_ROW):
        found = fetch(Location(f"{bucket}/a.tar", offset=5000 + number, size=10))
        assert isinstance(found, OSError)
        assert "shorter" in str(found)


def test_a_refused_listing_is_an_error_of_ours(
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Where the cache cannot be written, a listing is kept as long as the process."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FUNGI_CACHE", str(tmp_path / "file"))
    open_bucket(bucket).put("a.tar", packed(b"x", "0", 3))
    assert len([*open_source(f"{bucket}/a.tar")]) == 3
    open_bucket(bucket).put("a.tar", packed(b"x", "0", 3)[:1600])
    with pytest.raises(FungiError, match="truncated"):
        list(open_source(f"{bucket}/a.tar"))
