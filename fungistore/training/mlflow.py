"""A run of MLflow, in the place that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from time import time
from typing import Any, ClassVar

from fungistore.training.run_loggers import PROJECT, LoggedRun

TAG = "fungi.run"
LONGEST = 500  # characters of a parameter's value: what every backend of MLflow takes
AT_ONCE = 100  # parameters in a call: MLflow's limit


class MLflow:
    """Tells a run of the experiment that MLFLOW_EXPERIMENT_NAME names, "fungi" by default."""

    package: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"
    needs_directory: ClassVar[bool] = False
    is_live = True

    def __init__(self, run: LoggedRun) -> None:
        self._entities = import_module("mlflow.entities")
        self._client = import_module("mlflow").MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._experiment(name)
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.id}'")
        self._id: str = found[0].info.run_id if found else self._begin(experiment, run)
        self._client.update_run(self._id, status="RUNNING")

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:  # another head may have been faster
                known = self._client.get_experiment_by_name(name)
                if known is None:
                    raise
        return str(known.experiment_id)

    def _begin(self, experiment: str, run: LoggedRun) -> str:
        made: Any = self._client.create_run(experiment, run_name=run.name, tags={TAG: run.id})
        settings = [
            self._entities.Param(name, str(value)[:LONGEST]) for name, value in run.settings.items()
        ]
        for first in range(0, len(settings), AT_ONCE):
            self._client.log_batch(made.info.run_id, params=settings[first : first + AT_ONCE])
        return str(made.info.run_id)

    def last_epoch(self) -> int:
        """Return the last step that the server has."""
        history = self._client.get_metric_history(self._id, "loss")
        return max((int(metric.step) for metric in history), default=0)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Log an epoch's numbers at once."""
        now = int(1000 * time())
        # the loss, which `last_epoch` asks for, is last: some stores write one after another
        names = sorted(values, key=lambda name: name == "loss")
        metrics = [self._entities.Metric(name, values[name], now, epoch) for name in names]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, *, done: bool) -> None:
        """Mark the run as ended, or as broken off; one that goes on is marked as running again."""
        self._client.set_terminated(self._id, "FINISHED" if done else "KILLED")
