"""A training run in its folder: what it was asked, and how far it is.

<folder of the run>/           heads/<feature set>/<name>, or adaptations/<name>
    config.json                 everything that decides the weights; frozen before the first step
    state.json                  how far the run is, and the name of the file below
    state-<epoch>-<step>.safetensors   weights and optimiser there, and the best weights
    log.jsonl                   one line an epoch
    speed.json                  how fast it went, and the memory it took

The state's file is on the disk before `state.json` names it, so a kill leaves the state before or
the state after. All random numbers come from (seed, epoch, step), so no generator is part of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from pydantic import TypeAdapter

from fungistore.errors import StoreError
from fungistore.fingerprint import Config
from fungistore.modalities.modality import with_article
from fungistore.names import is_file_name
from fungistore.store.disk_errors import damage_explained
from fungistore.store.documents import encode_document, read_document, sealed
from fungistore.store.folder import Folder

CONFIG, STATE, LOG = "config.json", "state.json", "log.jsonl"
CHECKSUMS = "checksums"  # in the state: of the configuration and the tensors, for `fungi verify`


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        epoch: the epoch under way, from 0.
        step: its steps that were done.
        loss_sum: of these steps, each weighed by its rows.
        best_epoch: with the best validation metric so far; None before the first epoch's end.
        done: whether the run has ended.
        history: what each finished epoch gave.
        file: where the tensors of this moment are.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best_epoch: int | None = None
    done: bool = False
    history: tuple[dict[str, Any], ...] = field(default=())
    file: str | None = None


PROGRESS = TypeAdapter(Progress)


class RunFolder:
    """The folder of one run.

    Args:
        folder: where it is.
        what: it trains, for messages, such as "head".
        tables: that its configuration has.
    """

    def __init__(self, folder: Folder, what: str, tables: Sequence[str]) -> None:
        self.folder = folder
        self._what, self._tables = with_article(what), tables

    def config(self) -> Config | None:
        """Return the frozen configuration, None where the run was never begun.

        Raises:
            StoreError: it is damaged.
        """
        if not self.folder.has(CONFIG):
            return None
        config = read_document(self.folder, CONFIG, f"{self._what} is damaged")
        for table in self._tables:
            if not isinstance(config.get(table), dict):
                found, where = f"{table} is no table", self.folder.where(CONFIG)
                raise StoreError(f"{self._what} is damaged", where=where, found=found)
        return config

    def remove(self) -> None:
        """Delete the run, if there is one.

        The state first, or a kill left it to another run; then the configuration, or a kill left a
        run that has begun without what was written before it did.
        """
        self.folder.remove(STATE)
        self.folder.remove(CONFIG)
        self.folder.remove()

    def begin(self, config: Config) -> None:
        """Freeze the configuration."""
        self.folder.publish(CONFIG, encode_document(config))

    def progress(self) -> Progress:
        """Return how far the run is.

        Raises:
            StoreError: the state is damaged.
        """
        if not self.folder.has(STATE):
            return Progress()
        with damage_explained(f"the state of {self._what} is damaged", self.folder.where(STATE)):
            progress = PROGRESS.validate_json(self.folder.read(STATE))
            if progress.file is not None and not is_file_name(progress.file):
                raise ValueError(f"weights at {progress.file!r}, which is not beside the state")
            return progress

    def save(self, progress: Progress, tensors: bytes) -> Progress:
        """Write a state durably, with its tensors' file, then forget the one before."""
        name = f"state-{progress.epoch:04d}-{progress.step:06d}.safetensors"
        self.folder.publish(name, tensors)
        saved = replace(progress, file=name)
        log = "".join(json.dumps(line) + "\n" for line in saved.history)
        self.folder.publish(LOG, log.encode())
        checksums = {file: self.folder.digest(file) for file in (CONFIG, name)}
        state = sealed(asdict(saved) | {CHECKSUMS: checksums})
        self.folder.publish(STATE, encode_document(state))
        self.remove_strays(saved)
        return saved

    def remove_strays(self, progress: Progress) -> None:
        """Remove weights that a state does not name, and what interrupted writes left behind."""
        for name in self.folder.list().files:
            if fnmatchcase(name, "state-*.safetensors") and name != progress.file:
                self.folder.remove(name)
        backend = self.folder.backend
        for key in backend.leftovers(self.folder.key):
            backend.remove(key)
