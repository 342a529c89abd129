"""The runs of a table of scores: what each learns from, and which of them would differ."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fungistore.evaluation.options import ALL, TableOptions
from fungistore.evaluation.shots import few
from fungistore.evaluation.task import Task, task_for
from fungistore.fingerprint import Config
from fungistore.matrices.choices import Run
from fungistore.store.store import Store

Shots = int | Literal["all"]


class TableRuns:
    """Opens the task of each choice of rows once, and takes shots of it when they are asked for.

    Args:
        store: the store, or its directory.
        options: which shots, seeds and rows.
        draws_validation: whether the classifier draws validation rows where the store has none.

    Raises:
        UsageError: as in `open_task`, or several seeds that would all give the same.
    """

    def __init__(
        self, store: str | Path | Store, options: TableOptions, *, draws_validation: bool = False
    ) -> None:
        self._options = options
        seeds = tuple(dict.fromkeys(run.rows_seed for run in options.runs))
        self.first = task_for(store, options, seeds[0])
        self._tasks = {seeds[0]: self.first}
        is_held_out = "holdout" in self.first.split.description
        validates = draws_validation and not len(self.first.split.validation)
        self._drawn = {
            shots for shots in options.shots if is_held_out or validates or self._draws(shots)
        }
        options.refuse_the_same(
            method=options.is_random,
            rows=bool(self._drawn),
            otherwise="without --holdout or random --shots",
        )
        for seed in seeds[1:]:
            self._tasks[seed] = task_for(store, options, seed) if is_held_out else self.first

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all training rows, by the seed of the rows."""
        return tuple(self._tasks.values())

    @property
    def protocol(self) -> Config:
        """What a protocol says of seeds and shots."""
        said = self._options.seeds_used
        if self._options.shots == (ALL,):
            return said
        shots = list(self._options.shots)
        return said | {
            "shots": shots if len(shots) > 1 else shots[0],
            "shot_rule": self._options.shot_rule,
        }

    def of(self, shots: Shots) -> tuple[Run, ...]:
        """Return the runs of a number of shots: one where all would learn from the same."""
        runs = self._options.runs
        if shots in self._drawn:
            return runs
        return runs[: self._options.seeds if self._options.is_random else 1]

    def task(self, shots: Shots, run: Run) -> Task:
        """Return what a run learns from.

        Raises:
            UsageError: no proportional choice of shots is possible.
        """
        return few(self._tasks[run.rows_seed], shots, self._options.shot_rule, run.rows_seed)

    def _draws(self, shots: Shots) -> bool:
        """Whether shots are some of the rows, chosen by a seed."""
        if shots == ALL or self._options.shot_rule == "first":
            return False
        few_rows = self.task(shots, self._options.runs[0]).split.train
        return len(few_rows) < len(self.first.split.train)
