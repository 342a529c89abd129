"""What tar shards at URLs have in them, kept in the user's cache: listing one costs requests.

A listing is found again by the shard's URL, size, tag and time, so that of a shard that was packed
anew is another; none holds more than a store's table of samples does. Several are made at once.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fungistore.errors import FungiError, UsageError
from fungistore.fingerprint import digest_ids
from fungistore.machine.user_cache import user_cache
from fungistore.modalities.fetching import unreachable
from fungistore.remote.files import RemoteFile, time_of
from fungistore.remote.places import joined
from fungistore.remote.urls import is_url
from fungistore.sources.batches import BATCH_ROWS, SCHEMA, as_batch, samples_in
from fungistore.sources.sample import Sample
from fungistore.sources.shard_members import LeftOut, ShardMembers

LISTED_AT_ONCE = 4
FORMAT = "2"
_LEFT_OUT = b"left out"


@dataclass(frozen=True)
class ShardListing:
    """The samples of a shard, as a file of the disk has them."""

    file: Path
    several: LeftOut
    alone: LeftOut

    def __iter__(self) -> Iterator[Sample]:
        with pq.ParquetFile(self.file) as opened:
            for batch in opened.iter_batches(BATCH_ROWS):
                yield from samples_in([batch])


def listings(root: str, shards: Sequence[str], suffixes: Collection[str]) -> Iterator[ShardListing]:
    """Yield what some shards below a URL have in them, in their order.

    Raises:
        FungiError: one is truncated or corrupt.
        UnreachableError: one cannot be read.
    """
    waiting: deque[Future[ShardListing]] = deque()
    rest = iter(shards)
    pool = ThreadPoolExecutor(LISTED_AT_ONCE, thread_name_prefix="fungi-list")
    try:
        while True:
            for shard in islice(rest, 2 * LISTED_AT_ONCE - len(waiting)):
                waiting.append(pool.submit(_listed, root, shard, suffixes))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _listed(root: str, shard: str, suffixes: Collection[str]) -> ShardListing:
    url = joined(root, shard)
    try:
        with RemoteFile(url, is_streamed=True) as file:
            head = file.head
            known = (FORMAT, url, shard, str(head.size), str(head.tag), str(head.modified))
            name = f"{digest_ids([*known, *sorted(suffixes)])}.parquet"
            is_known = bool(head.tag) or time_of(head) is not None
            place = (_folder() if is_known else _own_folder()) / name
            if is_known and (kept := _kept(place)):
                return kept
            members = ShardMembers(file, url, shard, time_of(head), suffixes)
            try:
                _write(place, members)
            except OSError as error:
                if is_url(str(error.filename)) or place.parent == _own_folder():
                    raise
                place = _own_folder() / name  # the disk of the cache is full
                file.seek(0)
                _write(place, ShardMembers(file, url, shard, time_of(head), suffixes))
    except OSError as error:
        if not is_url(str(error.filename)):  # this machine's disk
            raise
        raise unreachable(error, "a shard") from error
    found = _kept(place)
    if found is None:
        raise FungiError("a listing of a shard cannot be kept", where=place)
    return found


def _kept(place: Path) -> ShardListing | None:
    """Return a listing that is there and sound; a cache may be damaged in any way."""
    try:
        with pq.ParquetFile(place, page_checksum_verification=True) as opened:
            for _ in opened.iter_batches(BATCH_ROWS):
                pass
            left_out = json.loads(opened.metadata.metadata[_LEFT_OUT])
        several, alone = (LeftOut(**left_out[name]) for name in ("several", "alone"))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return ShardListing(place, several, alone)


def _write(place: Path, members: ShardMembers) -> None:
    """Let a listing appear whole."""
    samples = iter(members)
    handle, temporary = tempfile.mkstemp(dir=place.parent, suffix=".partial")
    os.close(handle)
    try:
        with pq.ParquetWriter(
            temporary, SCHEMA, compression="zstd", write_page_checksum=True
        ) as writer:
            while some := list(islice(samples, BATCH_ROWS)):
                writer.write_batch(as_batch(some, SCHEMA))
            left_out = {"several": asdict(members.several), "alone": asdict(members.alone)}
            writer.add_key_value_metadata({_LEFT_OUT: json.dumps(left_out).encode()})
        os.replace(temporary, place)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _folder() -> Path:
    """Return the folder of listings; where there is no cache, one that goes with the process."""
    try:
        folder = user_cache() / "listings"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, UsageError):
        return _own_folder()


def _own_folder() -> Path:
    return Path(_temporary().name)


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fungi-listings-")
