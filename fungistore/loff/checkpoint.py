"""A training run on disk: what it was asked, how far it is, and the best head so far.

heads/<feature set>/<name>/
    config.json                 everything that decides the weights; frozen before the first step
    state.json                  how far the run is, and the name of the file below
    state-<epoch>-<step>.safetensors   weights and optimiser there, and the best weights
    log.jsonl                   one line an epoch

The state's file is on the disk before `state.json` names it, so a kill leaves the state before or
the state after. All random numbers come from (seed, epoch, step), so no generator is part of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save
from torch import Tensor

from fungistore.errors import StoreError
from fungistore.fingerprint import Config, canonical_json
from fungistore.names import is_file_name
from fungistore.store.durable import file_digest, orphans, publish_bytes, sync
from fungistore.store.seal import sealed
from fungistore.store.store import Store

HEADS = "heads"
CONFIG, STATE, LOG = "config.json", "state.json", "log.jsonl"
CHECKSUMS = "checksums"  # in the state: of the configuration and the tensors, for `fungi verify`
TABLES = ("options", "head", "inputs", "rows")  # of a configuration
Tensors = dict[str, Tensor]


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


class RunDirectory:
    """The directory of one head.

    Args:
        store: the store.
        feature_set: that it was trained on.
        name: of the head.
    """

    def __init__(self, store: Store, feature_set: str, name: str) -> None:
        self.path = store.root / HEADS / feature_set / name

    def config(self) -> Config | None:
        """Return the frozen configuration, None where the run was never begun.

        Raises:
            StoreError: it is damaged.
        """
        path = self.path / CONFIG
        if not path.is_file():
            return None
        try:
            config: Config = json.loads(path.read_bytes())
            canonical_json(config)  # refuses numbers that are none
            for table in TABLES:
                if not isinstance(config[table], dict):
                    raise ValueError(f"{table} is no table")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError("a head is damaged", where=path, found=error) from error
        return config

    def remove(self) -> None:
        """Delete the head, if there is one; the state first, or a kill left it to another run."""
        if self.path.is_dir():
            (self.path / STATE).unlink(missing_ok=True)
            sync(self.path)
            shutil.rmtree(self.path)

    def begin(self, config: Config) -> None:
        """Freeze the configuration."""
        publish_bytes(self.path / CONFIG, json.dumps(config, indent=1, sort_keys=True).encode())

    def progress(self) -> Progress:
        """Return how far the run is.

        Raises:
            StoreError: the state is damaged.
        """
        path = self.path / STATE
        if not path.is_file():
            return Progress()
        try:
            progress = PROGRESS.validate_json(path.read_bytes())
            if progress.file is not None and not is_file_name(progress.file):
                raise ValueError(f"weights at {progress.file!r}, which is not beside the state")
            return progress
        except (OSError, ValueError) as error:
            raise StoreError("a head's state is damaged", where=path, found=error) from error

    def tensors(self, progress: Progress) -> Tensors:
        """Return the tensors that a state names: "model.", "optimiser." and "best." ones.

        Raises:
            StoreError: they are missing or damaged.
        """
        path = self.path / (progress.file or STATE)
        try:
            if progress.file is None:
                raise ValueError("the state names no file")
            return load_file(path)
        except Exception as error:  # safetensors raises its own type and OSError alike
            raise StoreError("a head's weights are damaged", where=path, found=error) from error

    def save(self, progress: Progress, tensors: Mapping[str, Tensor]) -> Progress:
        """Write a state durably, then forget the one before."""
        name = f"state-{progress.epoch:04d}-{progress.step:06d}.safetensors"
        contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        publish_bytes(self.path / name, save(contiguous))
        saved = replace(progress, file=name)
        log = "".join(json.dumps(line) + "\n" for line in saved.history)
        publish_bytes(self.path / LOG, log.encode())
        checksums = {file: file_digest(self.path / file) for file in (CONFIG, name)}
        state = sealed(asdict(saved) | {CHECKSUMS: checksums})
        publish_bytes(self.path / STATE, json.dumps(state, indent=1).encode())
        self.remove_strays(saved)
        return saved

    def remove_strays(self, progress: Progress) -> None:
        """Remove weights that a state does not name, and what interrupted writes left behind."""
        states = self.path.glob("state-*.safetensors")
        unnamed = [path for path in states if path.name != progress.file]
        for path in [*unnamed, *orphans(self.path)]:
            path.unlink()


def head_names(store: Store, feature_set: str) -> list[str]:
    """Return the names of the heads of a feature set."""
    folder = store.root / HEADS / feature_set
    return sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))


def below(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names start with a prefix, by what follows it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def flatten_optimiser(optimiser: torch.optim.Optimizer, names: Mapping[int, str]) -> Tensors:
    """Return AdamW's moments and step counts by parameter name; `names` is by the tensor's id."""
    return {
        f"optimiser.{names[id(parameter)]}.{key}": value
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, names: Mapping[int, str], tensors: Tensors
) -> None:
    """Put back what `flatten_optimiser` gave."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            prefix = f"optimiser.{names[id(parameter)]}."
            optimiser.state[parameter] = {
                key.removeprefix(prefix): value.to(parameter.device)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
