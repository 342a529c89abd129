"""A run of Weights & Biases; online or offline, where and for whom is said by its own variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import ClassVar

from fungistore.loff.run_loggers import PROJECT, LoggedRun


class WeightsAndBiases:
    """Tells a run of the project that WANDB_PROJECT names, "fungi" by default."""

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"
    needs_directory: ClassVar[bool] = False

    def __init__(self, run: LoggedRun) -> None:
        wandb = import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            config=dict(run.settings),
            resume="allow",
            # stdout is for results, and the console is this program's
            settings=wandb.Settings(console="off", silent=True),
        )

    def last_epoch(self) -> int | None:
        """Return what the server has; None offline, where nobody knows but the run's folder."""
        return int(self._run.step) - 1 if self._run.resumed else None

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Send an epoch as a step: the service itself passes over one that it has."""
        self._run.log(dict(values), step=epoch)

    def close(self) -> None:
        """Wait until all was sent, or is in the offline run's file."""
        self._run.finish()
