"""A run of Weights & Biases; online or offline, where and for whom is said by its own variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from fungistore.training.run_loggers import PROJECT, LoggedRun

LOGIN_SECONDS = 60


class WeightsAndBiases:
    """Tells a run of the project that WANDB_PROJECT names, "fungi" by default."""

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"
    needs_directory: ClassVar[bool] = False

    def __init__(self, run: LoggedRun) -> None:
        self._described = run
        self._wandb = import_module("wandb")
        # the file of an offline run is whole when the run is finished, and not before
        self.is_live = self._wandb.setup().settings.mode == "online"
        # who is not logged in is asked for a key on a terminal: a training does not wait for ever
        if self.is_live and not self._wandb.login(timeout=LOGIN_SECONDS):
            raise PermissionError("nobody is logged in; `wandb login`, or WANDB_MODE=offline")
        self._run: Any = self._begin() if self.is_live else None

    def _begin(self) -> Any:
        run = self._described
        return self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            config=dict(run.settings),
            resume="allow",
            # stdout is for results, and the console is this program's
            settings=self._wandb.Settings(console="off", silent=True),
        )

    def last_epoch(self) -> int | None:
        """Return what the server has; None offline, where nobody knows but the run's folder."""
        if self._run is None:
            return None
        return int(self._run.step) - 1 if self._run.resumed else 0

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Send an epoch as a step: the service itself passes over one that it has."""
        if self._run is None:
            self._run = self._begin()
        self._run.log(dict(values), step=epoch)

    def close(self, *, done: bool) -> None:
        """Wait until all was sent, or is in the offline run's file."""
        if self._run is not None:
            self._run.finish(exit_code=0 if done else 1)
