"""Where else a training is followed: TensorBoard, Weights & Biases, MLflow, or a plug-in's service.

What is told is a tail of `log.jsonl`, after each epoch: the file is the truth, a service is told
what it lacks of it. So a run that was killed and goes on neither loses an epoch nor repeats one,
and a finished run can be told to a service that is thought of later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol
from uuid import uuid4

from fungistore.errors import UsageError
from fungistore.extras import install_command
from fungistore.fingerprint import Config, flatten
from fungistore.machine.context import Context
from fungistore.registry import Registry
from fungistore.store.documents import encode_document
from fungistore.training.run_folder import LOG, RunFolder

RUN_LOGGERS = Registry(
    "run logger",
    "fungistore.run_loggers",
    {
        "tensorboard": "fungistore.training.tensorboard:TensorBoard",
        "wandb": "fungistore.training.weights_and_biases:WeightsAndBiases",
        "mlflow": "fungistore.training.mlflow:MLflow",
    },
)
TOLD = "told.json"
PROJECT = "fungi"  # of a service, unless its own variable names another


@dataclass(frozen=True)
class LoggedRun:
    """What a service is told of a run at its start.

    Attributes:
        id: random, given once; a head that is trained anew has another.
        name: the head's, with its feature set.
        settings: everything that decides the weights, by dotted name.
        directory: of the run on this machine; None where its store is elsewhere.
    """

    id: str
    name: str
    settings: Mapping[str, Any]
    directory: Path | None


class RunLogger(Protocol):
    """One service's end of a run; made with a `LoggedRun`, which a service may know already.

    Attributes:
        package: that has to be installed.
        extra: of ours that installs it, such as "wandb"; "" if none does.
        needs_directory: whether it writes beside the run.
        is_live: whether what it was told outlives a kill; one that is not is told all at the end.
    """

    package: ClassVar[str]
    extra: ClassVar[str]
    needs_directory: ClassVar[bool]
    is_live: bool

    def __init__(self, run: LoggedRun) -> None:
        """Open the run."""

    def last_epoch(self) -> int | None:
        """Return the last epoch that the service has, 0 for a new run, None if it cannot tell."""

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Tell an epoch's numbers; the next call has a later epoch."""

    def close(self, *, done: bool) -> None:
        """Flush what was told; `done` says whether the training has come to its end."""


class Tail:
    """Tells services what they lack of a run's log; one that fails is warned of, and left out.

    Args:
        names: of the services.
        run: the folder of the head, whose configuration is frozen.
        title: what the run is called.
        context: its reporter is told of failures.
    """

    def __init__(self, names: Sequence[str], run: RunFolder, title: str, context: Context) -> None:
        self._run, self._context = run, context
        self._open: dict[str, RunLogger] = {}
        self._from: dict[str, int] = {}
        self._told = _read_told(run) if names else {}
        for name in dict.fromkeys(names):
            with self._warned(name):
                settings = _settings(run.config() or {})
                logged = LoggedRun(self._told["run"], title, settings, run.folder.directory())
                logger: RunLogger = RUN_LOGGERS[name](logged)
                self._open[name] = logger
                last = logger.last_epoch()
                self._from[name] = self._told["epochs"].get(name, 0) if last is None else last

    def follow(self) -> None:
        """Tell every service the epochs of the log that it lacks."""
        for name, logger in list(self._open.items()):
            if logger.is_live:
                with self._warned(name):
                    for epoch in self._tell(name, logger):
                        self._note(name, epoch)

    def close(self) -> None:
        """End with every service."""
        for name, logger in list(self._open.items()):
            with self._warned(name):
                epochs = list(self._tell(name, logger))
                logger.close(done=self._run.progress().done)
                if epochs:
                    self._note(name, epochs[-1])
        self._open.clear()

    def _tell(self, name: str, logger: RunLogger) -> Iterator[int]:
        """Tell a service what it lacks; yields each epoch that it was told."""
        for epoch, values in _lines(self._run):
            if epoch > self._from[name]:
                logger.write(epoch, values)
                self._from[name] = epoch
                yield epoch

    def _note(self, name: str, epoch: int) -> None:
        self._told["epochs"][name] = epoch
        self._run.folder.publish(TOLD, encode_document(self._told))

    def _warned(self, name: str) -> _Warned:
        return _Warned(self, name)

    def give_up(self, name: str, error: Exception) -> None:
        """Leave a service alone from here on, and say why."""
        self._context.reporter.notice(
            f"warning: {name} is not told of this run any more: {type(error).__name__}: {error}; "
            f"the same fungi train-loff with --log-to {name} tells it later what it lacks"
        )
        logger = self._open.pop(name, None)
        with suppress(Exception):
            if logger is not None:
                logger.close(done=False)


@dataclass(frozen=True)
class _Warned:
    """Turns whatever a service raises into its end for this run: a training goes on."""

    tail: Tail
    name: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            self.tail.give_up(self.name, error)
        return isinstance(error, Exception)


def refuse_unusable(names: Sequence[str], directory: Path | None, where: str) -> None:
    """Refuse services whose package is not installed, before a training begins.

    Args:
        names: of the services.
        directory: of the store; None where it is no directory of this machine.
        where: the store is.

    Raises:
        UsageError: there is no such service, its package lacks, or the store is no place for it.
    """
    for name in names:
        kind: type[RunLogger] = RUN_LOGGERS.choose(name, "--log-to")
        if not _is_installed(kind.package):
            raise UsageError(
                f"{name} is not installed",
                where=f"--log-to {name}",
                expected=f"the package {kind.package}",
                hint=install_command(kind.extra, kind.package),
            )
        if kind.needs_directory and directory is None:
            raise UsageError(
                f"{name} writes beside the run, and the store is no directory of this machine",
                where=where,
                hint="leave it out of --log-to: log.jsonl has the same numbers",
            )


def _is_installed(package: str) -> bool:
    """Whether there is such a package; a folder of its name, as some services leave, is none."""
    with suppress(ModuleNotFoundError):  # of the package that it is in
        spec = find_spec(package)
        return spec is not None and spec.origin is not None
    return False


def _lines(run: RunFolder) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the epochs of a run's log with their numbers, such as "validation/accuracy"."""
    text = run.folder.read(LOG) if run.folder.has(LOG) else b""
    for line in map(json.loads, text.splitlines()):
        metrics = {f"validation/{name}": value for name, value in line["validation"].items()}
        yield line["epoch"], {"loss": line["loss"], **metrics}


def _settings(config: Config) -> dict[str, Any]:
    kept = ("options", "head", "split", "dtype", "inputs")
    return flatten({key: config[key] for key in kept if key in config})


def _read_told(run: RunFolder) -> dict[str, Any]:
    """Return the run's id, and how far each service was told; made anew where that is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        document = json.loads(run.folder.read(TOLD))
        epochs = {str(name): int(epoch) for name, epoch in document["epochs"].items()}
        return {"run": str(document["run"]), "epochs": epochs}
    fresh = {"run": uuid4().hex, "epochs": {}}
    run.folder.publish(TOLD, encode_document(fresh))
    return fresh
