"""Claims of a store in an object store: an object for each, put where there is none."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from pydantic import TypeAdapter

from fungistore.remote.bucket import ABSENT, Bucket, ChangedError
from fungistore.store.locks import POLL_SECONDS, Claim

LOCKS = ".locks"
CLAIM = TypeAdapter(Claim)
SHORT = f"{LOCKS}/short.json"


class ObjectClaims:
    """The claims below a URL.

    Args:
        bucket: of that URL.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Hold the short lock."""
        while True:
            try:
                self._bucket.put(SHORT, b"{}", expected=ABSENT)
                break
            except ChangedError:
                time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            self._bucket.delete([SHORT])

    @contextmanager
    def take(self, claim: Claim) -> Iterator[None]:
        """Put a claim where there is none."""
        digest = hashlib.blake2b(claim.thing.encode(), digest_size=8).hexdigest()
        key = f"{LOCKS}/{digest}.{claim.index}-of-{claim.count}.json"
        self._bucket.put(key, json.dumps(asdict(claim)).encode(), expected=ABSENT)
        try:
            yield
        finally:
            self._bucket.delete([key])

    def live(self) -> list[Claim]:
        """Return what is held."""
        return self.seen()

    def seen(self) -> list[Claim]:
        """Return what is held."""
        keys = [one.key for one in self._bucket.below(LOCKS) if one.key != SHORT]
        return [CLAIM.validate_json(data) for data in self._bucket.get_all(keys)]
