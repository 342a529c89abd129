"""What zarr reads of a bucket, with errors as from a disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zarr.storage import ObjectStore

from fungistore.remote.bucket import Bucket

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class BucketReads(ObjectStore[Any]):
    """The objects of a bucket, which zarr may read.

    Args:
        bucket: they are in.
        read_only: nothing else is meant.
    """

    def __init__(self, bucket: Bucket, *, read_only: bool = True) -> None:
        super().__init__(bucket.store, read_only=read_only)
        self._bucket = bucket

    def with_read_only(self, read_only: bool = False) -> BucketReads:
        """Return it as zarr asks for it."""
        return BucketReads(self._bucket, read_only=read_only)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object's bytes, None where there is none."""
        with self._bucket.told(key):
            return await super().get(key, prototype, byte_range)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        with self._bucket.told(""):
            return await super().get_partial_values(prototype, key_ranges)

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        with self._bucket.told(key):
            return await super().exists(key)
