"""Claims of a store in a directory: a locked file for each, with its owner beside it.

The operating system frees a lock when its owner dies, however it dies: nothing has to be cleaned
up by hand. On network file systems the same holds where they carry flock between hosts (NFS 4,
Lustre mounted with `flock`, GPFS, CephFS); elsewhere processes of one host see each other only,
and workers on several hosts must be told apart by --worker-id alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from fungistore.errors import FungiError
from fungistore.names import is_foreign
from fungistore.store.locks import Claim

LOCKS = ".locks"
SHORT = "short.lock"
SHORT_SECONDS = 600  # held for moments: whoever holds it longer hangs
UNKNOWN = Claim("", 0, 1, "", 0, "an unknown host", "an unknown time", "its record is damaged")
CLAIM = TypeAdapter(Claim)


class LocalClaims:
    """The claims below a directory.

    Args:
        root: the store's directory.
    """

    def __init__(self, root: Path) -> None:
        self._directory = root / LOCKS

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Hold the short lock."""
        self._directory.mkdir(exist_ok=True)
        lock = FileLock(self._directory / SHORT, timeout=SHORT_SECONDS, poll_interval=0.01)
        try:
            lock.acquire()
        except Timeout as error:
            raise FungiError(
                "another process holds the store's short lock and does not go on",
                where=self._directory / SHORT,
                hint="find it with: lsof, or fuser; end it",
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def take(self, claim: Claim) -> Iterator[None]:
        """Write a claim down and lock the file beside it."""
        digest = hashlib.blake2b(claim.thing.encode(), digest_size=8).hexdigest()
        name = f"{digest}.{claim.index}-of-{claim.count}"
        (self._directory / f"{name}.json").write_text(json.dumps(asdict(claim), indent=1))
        # nobody else has it now, but a reader may look whether it is held
        with FileLock(self._directory / f"{name}.lock", timeout=1):
            yield

    def live(self) -> list[Claim]:
        """Return what is held; removes the files of what is not, which the short lock makes safe.

        A file that is locked by somebody but says nothing counts as a claim on everything.
        """
        claims = []
        for path in self._files():
            record = path.with_suffix(".json")
            try:
                with FileLock(path, timeout=0):
                    record.unlink(missing_ok=True)
                    path.unlink()
            except Timeout:
                claims.append(_read(record))
        return claims

    def seen(self) -> list[Claim]:
        """Return what is held, by asking for the locks as a reader."""
        return [_read(path.with_suffix(".json")) for path in self._files() if _is_held(path)]

    def _files(self) -> list[Path]:
        found = (path for path in self._directory.glob("*.lock") if not is_foreign(path.name))
        return sorted(path for path in found if path.name != SHORT)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # removed in the meantime
        return False
    except OSError:  # nobody knows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(record: Path) -> Claim:
    try:
        return CLAIM.validate_json(record.read_bytes())
    except (OSError, ValueError):
        return UNKNOWN
