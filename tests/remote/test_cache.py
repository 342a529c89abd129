"""What is kept of remote objects: the same bytes, once, checked, within a size."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungistore.quantities import bytes_in
from fungistore.remote.cache import PAGE_BYTES, Cache, Cached

SIZE = 7 * PAGE_BYTES + 1234


class Server:
    """An object, and what was asked of it."""

    def __init__(self, size: int = SIZE, seed: int = 0) -> None:
        self.data = np.random.default_rng(seed).bytes(size)
        self.what = Cached("s3://bucket/x", f"key-{seed}", "tag", size)
        self.asked: list[tuple[int, int]] = []

    def fetch(self, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        return self.data[start : start + length]

    @property
    def bytes_asked(self) -> int:
        return sum(length for _, length in self.asked)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), min_size=1, max_size=6))
def test_ranges_are_those_of_the_object(tmp_path_factory, ends: list[tuple[int, int]]) -> None:
    """Any ranges, also empty and overlapping ones, first fetched and then kept, are its bytes."""
    server, cache = Server(), Cache(tmp_path_factory.mktemp("cache"), 1 << 30)
    starts = [min(pair) for pair in ends]
    lengths = [max(pair) - min(pair) for pair in ends]
    expected = [server.data[s : s + n] for s, n in zip(starts, lengths, strict=True)]
    assert cache.read(server.what, starts, lengths, server.fetch) == expected
    asked = len(server.asked)
    assert cache.read(server.what, starts, lengths, server.fetch) == expected
    assert len(server.asked) == asked


def test_only_missing_pages_are_fetched(tmp_path: Path) -> None:
    """A range costs its pages; the whole object then costs the others, and after that nothing."""
    server, cache = Server(20 * PAGE_BYTES), Cache(tmp_path, 1 << 30)
    assert cache.read(server.what, [PAGE_BYTES + 5], [10], server.fetch) == [
        server.data[PAGE_BYTES + 5 :][:10]
    ]
    assert server.asked == [(PAGE_BYTES, PAGE_BYTES)]
    assert cache.whole(server.what, server.fetch) == server.data
    assert (
        sorted(server.asked)
        == [(0, PAGE_BYTES), (PAGE_BYTES, PAGE_BYTES), (2 * PAGE_BYTES, 18 * PAGE_BYTES)]
        or server.bytes_asked <= 21 * PAGE_BYTES
    )
    asked = len(server.asked)
    assert cache.whole(server.what, server.fetch) == server.data
    assert len(server.asked) == asked


def test_another_tag_is_another_object(tmp_path: Path) -> None:
    """An object that was replaced is fetched, though its key is the same."""
    old, new, cache = Server(seed=1), Server(seed=2), Cache(tmp_path, 1 << 30)
    cache.whole(old.what, old.fetch)
    changed = Cached(old.what.url, old.what.key, "other tag", SIZE)
    assert cache.whole(changed, new.fetch) == new.data
    assert cache.whole(old.what, old.fetch) == old.data
    assert len(old.asked) == len(new.asked) == 1


@pytest.mark.parametrize("suffix", [".data", ".pages"])
@pytest.mark.parametrize("how", ["bit", "cut", "zeros", "gone"])
def test_damage_is_fetched_again(tmp_path: Path, suffix: str, how: str) -> None:
    """Whatever happens to the files, what is read is the object; and it is mended by that."""
    server, cache = Server(), Cache(tmp_path, 1 << 30)
    cache.whole(server.what, server.fetch)
    (path,) = tmp_path.rglob(f"*{suffix}")
    content = path.read_bytes()
    place = len(content) // 2
    if how == "bit":
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    elif how == "cut":
        path.write_bytes(content[:place])
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    else:
        path.unlink()
    assert cache.whole(server.what, server.fetch) == server.data
    asked = len(server.asked)
    assert asked > 1
    assert cache.whole(server.what, server.fetch) == server.data
    assert len(server.asked) == asked


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    """Beyond its size those objects go that nobody used for longest; the rest is still there."""
    servers = [Server(4 * PAGE_BYTES, seed) for seed in range(6)]
    cache = Cache(tmp_path, 18 * PAGE_BYTES)  # room for four
    for number, server in enumerate(servers[:4]):
        cache.whole(server.what, server.fetch)
        for path in tmp_path.rglob(f"{server.what.digest}.*"):
            os.utime(path, (1000 + number, 1000 + number))
    cache.whole(servers[0].what, servers[0].fetch)  # the oldest is used again
    for server in servers[4:]:
        cache.whole(server.what, server.fetch)
    assert cache.bytes() <= 18 * PAGE_BYTES
    for number in (0, 4, 5):
        cache.whole(servers[number].what, servers[number].fetch)
    assert [len(server.asked) for server in servers] == [1, 1, 1, 1, 1, 1]
    assert not list(tmp_path.rglob(f"{servers[1].what.digest}.*"))


def test_small_objects_take_what_they_take_of_the_disk(tmp_path: Path) -> None:
    """A record of 100 bytes is two files of a block each: the bound counts those."""
    cache = Cache(tmp_path, 1_000_000)
    for number in range(600):
        what = Cached("s3://bucket/x", f"record-{number}", "tag", 100)
        assert cache.whole(what, lambda start, length: bytes(length)) == bytes(100)
    blocks = sum(path.stat().st_blocks for path in tmp_path.rglob("*") if path.is_file())
    assert 400_000 < 512 * blocks < 1_100_000
    assert cache.bytes() == 512 * sum(
        path.stat().st_blocks for path in tmp_path.rglob("*.*") if path.is_file()
    )


def test_pages_whose_data_went_are_evicted(tmp_path: Path) -> None:
    """What a race left behind is a file as any other."""
    cache = Cache(tmp_path, 100_000)
    (tmp_path / "ab").mkdir()
    left = tmp_path / "ab" / "abcd.pages"
    left.write_bytes(bytes(200_000))
    os.utime(left, (1, 1))
    cache.evict()
    assert not left.exists()


def test_a_large_object_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of one of 40 MB costs a few windows of 1 MB; it is whole, and made once."""
    monkeypatch.setattr("fungistore.remote.cache.WINDOW_BYTES", 1 << 20)
    server, cache = Server(40 << 20), Cache(tmp_path, 1 << 30)
    tracemalloc.start()
    try:
        path = cache.path(server.what, server.fetch)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert path is not None
    assert path.read_bytes() == server.data
    asked, stamp = len(server.asked), path.stat().st_ino
    assert cache.path(server.what, server.fetch) == path
    assert (len(server.asked), path.stat().st_ino) == (asked, stamp)


def test_a_path_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's error is the caller's; a full disk gives no path; neither leaves a part."""
    monkeypatch.setattr("fungistore.remote.cache.WINDOW_BYTES", 1 << 20)
    server, cache = Server(3 << 20), Cache(tmp_path, 1 << 30)

    def broken(start: int, length: int) -> bytes:
        if start:
            raise OSError(5, "the server did not answer", "s3://bucket/x/key-0")
        return server.fetch(start, length)

    with pytest.raises(OSError, match="did not answer"):
        cache.path(server.what, broken)
    whole = [path for path in tmp_path.rglob("*") if ".whole" in path.name]
    assert whole == []
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        assert cache.path(server.what, server.fetch) is None
        assert cache.whole(server.what, server.fetch) == server.data
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert [path for path in tmp_path.rglob("*") if ".whole" in path.name] == []


def test_a_path_stays_while_it_is_opened(tmp_path: Path) -> None:
    """A file whose path was given away is the object, and outlives a full cache for a minute."""
    server, cache = Server(), Cache(tmp_path, 2 * SIZE + 3 * PAGE_BYTES)
    path = cache.path(server.what, server.fetch)
    assert path is not None
    assert path.read_bytes() == server.data
    for seed in range(1, 5):
        cache.whole(Server(seed=seed).what, Server(seed=seed).fetch)
    assert path.read_bytes() == server.data
    path.write_bytes(b"damaged")
    assert cache.path(server.what, server.fetch) == path
    assert path.read_bytes() == server.data


def test_a_place_that_cannot_be_written_is_said_once(tmp_path: Path, caplog) -> None:
    """Reading goes on without a cache, and a warning names the flag."""
    (tmp_path / "file").write_bytes(b"")
    server, cache = Server(), Cache(tmp_path / "file" / "below", 1 << 30)
    for _ in range(3):
        assert cache.whole(server.what, server.fetch) == server.data
    assert cache.path(server.what, server.fetch) is None
    assert caplog.text.count("--cache-dir") == 1


PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cache import Server
from fungistore.remote.cache import PAGE_BYTES, Cache
cache = Cache(Path({folder!r}), 10 * 4 * PAGE_BYTES)
for turn in range(40):
    server = Server(4 * PAGE_BYTES, seed=(turn * {step}) % 17)
    assert cache.whole(server.what, server.fetch) == server.data
    start = turn * 1000
    assert cache.read(server.what, [start], [5000], server.fetch) == [server.data[start:start+5000]]
"""


def test_several_processes_fill_and_empty_it_at_once(tmp_path: Path) -> None:
    """Three processes with more objects than there is room for read nothing but their bytes."""
    here, folder = str(Path(__file__).parent), str(tmp_path)
    children = [
        subprocess.Popen([sys.executable, "-c", text])
        for text in (PROCESS.format(tests=here, folder=folder, step=step) for step in (1, 5, 16))
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert Cache(tmp_path, 0).bytes() < 16 * 4 * PAGE_BYTES


def test_threads_read_one_object_at_once(tmp_path: Path) -> None:
    """Eight threads get the same bytes of a page that none of them had."""
    server, cache = Server(), Cache(tmp_path, 1 << 30)
    got: list[bytes] = []

    def read() -> None:
        got.append(cache.whole(server.what, server.fetch))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [server.data] * 8


def test_a_fetch_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """The error of a request is the caller's, and the next reading asks again."""
    server, cache = Server(), Cache(tmp_path, 1 << 30)

    def fail(start: int, length: int) -> bytes:
        raise OSError(5, "cut off")

    broken: Callable[[int, int], bytes] = fail
    with pytest.raises(OSError, match="cut off"):
        cache.whole(server.what, broken)
    assert cache.whole(server.what, server.fetch) == server.data


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("20GB", 20 * 10**9),
        ("1.5 kb", 1500),
        ("0", 0),
        ("7", 7),
        ("2GiB", 1 << 31),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    """A size is a number and a unit."""
    assert bytes_in(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "20 gigs", "1e9", "nan", "1..5MB"])
def test_other_texts_are_no_size(text: str) -> None:
    """What is no number of bytes is none."""
    assert bytes_in(text) is None
