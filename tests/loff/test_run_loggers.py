"""Services that follow a training: each epoch once, whatever stops the run or the service."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store
from fungistore.errors import FungiError, StoppedError, UsageError
from fungistore.loff.head_folder import head_run
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import QUIET, Context
from fungistore.store.store import Store
from fungistore.training.run_loggers import RUN_LOGGERS, TOLD, refuse_unusable
from plugins import install, write_plugin

EPOCHS = 4
FILES = '''
import json
from pathlib import Path

class Files:
    """Writes a line an epoch to a file for each run; forgets what it has, as a service may."""

    package, extra, needs_directory, is_live = "json", "", False, True

    def __init__(self, run):
        self.file = Path(PLACE) / run.id
        if not self.file.exists():
            self.file.write_text(json.dumps(dict(run.settings), default=str) + "\\n")

    def last_epoch(self):
        return None

    def write(self, epoch, values):
        if Path(PLACE, "down").exists() and epoch > 1:
            raise ConnectionError("the service is down")
        with self.file.open("a") as file:
            print(json.dumps([epoch, dict(values)]), file=file)

    def close(self, *, done):
        ends = Path(PLACE, "ends")
        if ends.exists():
            ends.write_text(ends.read_text() + f"{done} ")


class AtTheEnd(Files):
    """Keeps nothing before it is closed, and says so."""

    is_live = False

    def __init__(self, run):
        super().__init__(run)
        self.kept = []

    def write(self, epoch, values):
        self.kept.append((epoch, dict(values)))

    def close(self, *, done):
        for epoch, values in self.kept:
            super().write(epoch, values)


class Absent(Files):
    package, extra = "no_such_package", "nothing"


class Beside(Files):
    needs_directory = True
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a plug-in's service."""
    folder = tmp_path / "service"
    folder.mkdir()
    kinds = {"files": "Files", "end": "AtTheEnd", "absent": "Absent", "beside": "Beside"}
    names = {name: f"filelog:{kind}" for name, kind in kinds.items()}
    source = f"PLACE = {str(folder)!r}\n{FILES}"
    write_plugin(tmp_path / "plugin", "filelog", source, {RUN_LOGGERS.group: names})
    install(monkeypatch, tmp_path / "plugin", "filelog", RUN_LOGGERS)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Forty rows of two classes."""
    vectors, labels = clustered(40, 2, 6)
    return make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)


def options(*names: str, **changes: Any) -> TrainOptions:
    settings = {"head": "linear", "name": "h", "epochs": EPOCHS, "batch_size": 8, "device": "cpu"}
    return TrainOptions(**(settings | {"log_to": names} | changes))  # type: ignore[arg-type]


def stopped(store: Store, asked: TrainOptions, steps: int) -> None:
    """Train so many steps."""
    calls = iter(range(10_000))
    with pytest.raises(StoppedError):
        train_loff(store.root, asked, context=Context(stop=lambda: next(calls) >= steps))


def told(place: Path) -> list[list[tuple[int, dict[str, float]]]]:
    """The epochs that each run of the service has."""
    runs = [path for path in sorted(place.iterdir()) if path.name not in ("down", "ends")]
    return [[tuple(json.loads(line)) for line in run.read_text().splitlines()[1:]] for run in runs]


def logged(store: Store) -> list[tuple[int, dict[str, float]]]:
    """What `log.jsonl` says."""
    lines = head_run(store, "set", "h").folder.read("log.jsonl").splitlines()
    return [
        (
            line["epoch"],
            {"loss": line["loss"]} | {f"validation/{k}": v for k, v in line["validation"].items()},
        )
        for line in map(json.loads, lines)
    ]


def test_nothing_is_logged_elsewhere_unless_asked(store: Store) -> None:
    """A run's folder has its log, and no events of TensorBoard though that may be installed."""
    train_loff(store.root, options())
    files = {path.name for path in (store.root / "heads/set/h").iterdir()}
    assert "log.jsonl" in files
    assert not files & {TOLD, "tensorboard"}


@pytest.mark.parametrize("name", ["files", "end"])
@pytest.mark.parametrize("steps", [1, 5, 9, 13])
def test_a_run_that_goes_on_tells_each_epoch_once(
    store: Store, place: Path, steps: int, name: str
) -> None:
    """Stopped anywhere, twice: the service has one run, with the epochs of the log."""
    stopped(store, options(name), steps)
    stopped(store, options(name), 2)
    done = train_loff(store.root, options(name))
    assert told(place) == [logged(store)]
    assert [epoch for epoch, _ in logged(store)] == list(range(1, EPOCHS + 1))
    settings = json.loads(next(place.iterdir()).read_text().splitlines()[0])
    assert (settings["options.lr"], settings["head.kind"]) == (5e-4, "linear")
    assert done.fingerprint == train_loff(store.root, options()).fingerprint


def test_a_finished_run_is_told_later(store: Store, place: Path) -> None:
    """With --log-to alone added to the command; again adds nothing; --restart is another run."""
    command = ["train-loff", str(store.root), "--head", "linear", "--name", "h", "--epochs", "2"]
    assert CliRunner().invoke(app, command).exit_code == 0
    for _ in range(2):
        later = CliRunner().invoke(app, [*command, "--log-to", "files"])
        assert later.exit_code == 0, later.stderr
        assert "nothing to do: 2 epochs are done" in later.stderr
        assert told(place) == [logged(store)]
    CliRunner().invoke(app, [*command, "--log-to", "files", "--restart"])
    assert told(place) == [logged(store)] * 2


def test_a_service_that_fails_is_one_warning(tmp_path: Path, store: Store, place: Path) -> None:
    """The training goes on to the same weights, and the service is told later what it lacks."""
    (place / "down").touch()
    said: list[str] = []
    done = train_loff(store.root, options("files"), context=Context(Notices(said)))
    (warning,) = [text for text in said if "warning" in text]
    assert "files is not told of this run any more: ConnectionError: the service is" in warning
    assert "--log-to files" in warning
    assert done.epochs == EPOCHS
    assert [epoch for epoch, _ in told(place)[0]] == [1]
    (place / "down").unlink()
    train_loff(store.root, options("files"))
    assert told(place) == [logged(store)]


def test_a_service_hears_whether_the_training_has_ended(store: Store, place: Path) -> None:
    """Not of one that was stopped, or whose loss is not finite; yes once it has gone on."""
    ends = place / "ends"
    ends.touch()
    stopped(store, options("files"), 6)
    with pytest.raises(FungiError, match="not finite"):
        train_loff(store.root, options("files", lr=1e30, name="wild"))
    train_loff(store.root, options("files"))
    train_loff(store.root, options("files"))
    assert ends.read_text().split() == ["False", "False", "True", "True"]


def test_a_damaged_record_is_a_new_run(store: Store, place: Path) -> None:
    """Without a record of what was told, everything is told to a run of its own."""
    train_loff(store.root, options("files"))
    store.folder("heads", "set", "h").publish(TOLD, b'{"run": 7, "epochs"')
    train_loff(store.root, options("files"))
    assert told(place) == [logged(store)] * 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "try: pip install "),
        ("abacus", "expected: tensorboard or wandb or mlflow"),
    ],
)
def test_what_cannot_be_told_is_refused_before_the_training(
    store: Store, place: Path, name: str, words: str
) -> None:
    """A package that lacks is named, of another name the choices; nothing was begun."""
    with pytest.raises(UsageError) as caught:
        train_loff(store.root, options("files", name))
    assert words in str(caught.value)
    assert not (store.root / "heads").exists()
    assert not list(place.iterdir())


@pytest.mark.parametrize("package", ["left_behind", "no_such_package.inner"])
def test_a_folder_of_its_name_is_no_package(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """Services leave folders of their name where they run, which Python would import as empty."""
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(RUN_LOGGERS["absent"], "package", package)
    with pytest.raises(UsageError, match="absent is not installed"):
        refuse_unusable(["absent"], tmp_path, "s.fungi")


def test_a_store_elsewhere_has_no_events_beside_it(place: Path) -> None:
    """What writes into the run's directory is refused where there is none; the others are not."""
    refuse_unusable(["files"], None, "s3://bucket/x.fungi")
    with pytest.raises(UsageError, match="no directory of this machine"):
        refuse_unusable(["beside"], None, "s3://bucket/x.fungi")


def scalars(run: Path) -> list[tuple[int, float]]:
    events = import_module("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars("loss")]


def runs_of_mlflow() -> list[tuple[str, str]]:
    client = import_module("mlflow").MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("fungi").experiment_id])
    return sorted((run.info.run_name, run.info.status) for run in found)


def rows_of_mlflow(_: Path) -> list[tuple[int, float]]:
    client = import_module("mlflow").MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("fungi").experiment_id])
    assert (run.info.run_name, run.info.status) == ("set/h", "FINISHED")
    assert run.data.params["options.lr"] == "0.0005"
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")]


def records_of_wandb(file: Path) -> Iterator[bytes]:
    """The records of an offline run, in LevelDB's log format after a header of seven bytes."""
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32_768 - place % 32_768
        length, kind = struct.unpack_from("<4xHB", data, place)
        if left < 7 or not kind:  # the filling of a block
            place += left
            continue
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def steps_of_wandb(run: Path) -> list[tuple[int, float]]:
    """What the files of the offline runs, which have one id, say of the loss."""
    record = import_module("wandb.proto.wandb_internal_pb2").Record
    found = []
    files = sorted((run.parents[3] / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1
    for item in map(record.FromString, chain.from_iterable(map(records_of_wandb, files))):
        if item.WhichOneof("record_type") == "history":
            values = {one.key or one.nested_key[0]: one.value_json for one in item.history.item}
            found.append((item.history.step.num, float(values["loss"])))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of these packages
@pytest.mark.parametrize(
    ("name", "package", "read"),
    [
        ("tensorboard", "tensorboard", scalars),
        ("mlflow", "mlflow", rows_of_mlflow),
        ("wandb", "wandb", steps_of_wandb),
    ],
)
def test_the_real_services_have_each_epoch_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, read
) -> None:
    """Stopped, gone on with, and told once more when all is done: the losses of the log."""
    pytest.importorskip(package)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    said: list[str] = []
    stdout = sys.stdout
    stopped(store, options(name), 9)
    if name == "mlflow":
        assert runs_of_mlflow() == [("set/h", "KILLED")]
    for _ in range(2):
        train_loff(store.root, options(name), context=Context(Notices(said)))
    assert not [text for text in said if "warning" in text]
    expected = [(epoch, pytest.approx(values["loss"])) for epoch, values in logged(store)]
    assert read(store.root / "heads" / "set" / "h") == expected
    assert sys.stdout is stdout
    assert train_loff(store.root, options(), context=QUIET).epochs == EPOCHS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_experiment_that_another_head_has_just_made_is_taken(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have asked for it, and only one could make it; neither is left out."""
    client = pytest.importorskip("mlflow").MlflowClient
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client().create_experiment("fungi")
    ask, answers = client.get_experiment_by_name, iter([None])  # as it was before the other's
    monkeypatch.setattr(
        client, "get_experiment_by_name", lambda self, name: next(answers, ask(self, name))
    )
    said: list[str] = []
    train_loff(store.root, options("mlflow"), context=Context(Notices(said)))
    assert not [text for text in said if "warning" in text]
    assert runs_of_mlflow() == [("set/h", "FINISHED")]


@pytest.mark.slow
def test_a_question_for_a_key_does_not_hold_the_training_up(store: Store, tmp_path: Path) -> None:
    """On a terminal wandb asks who is not logged in; without an answer that is one warning."""
    pytest.importorskip("wandb")
    words = [
        "train-loff",
        str(store.root),
        "--head",
        "linear",
        "--epochs",
        "1",
        "--log-to",
        "wandb",
    ]
    code = (
        "from fungistore.loff import weights_and_biases; weights_and_biases.LOGIN_SECONDS = 1; "
        f"from fungi_cli.main import app; app({words!r})"
    )
    bare = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "rb") as terminal:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=bare | {"HOME": str(tmp_path), "WANDB_DIR": str(tmp_path), "TERM": "xterm"},
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0
    assert b"trained on" in done.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_events_have_an_epoch_in_one_record(store: Store) -> None:
    """So that a kill cannot leave an epoch with its loss and without its metrics."""
    pytest.importorskip("tensorboard")
    train_loff(store.root, options("tensorboard"))
    loader = import_module("tensorboard.backend.event_processing.event_file_loader")
    (file,) = (store.root / "heads" / "set" / "h" / "tensorboard").iterdir()
    events = [event for event in loader.EventFileLoader(str(file)).Load() if event.step]
    tags = [{value.tag for value in event.summary.value} for event in events]
    assert tags == [set(values) for _, values in logged(store)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "read", "epochs"),
    [("tensorboard", scalars, 60), ("mlflow", rows_of_mlflow, 60), ("wandb", steps_of_wandb, 200)],
)
def test_the_real_services_outlive_a_kill(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read, epochs: int
) -> None:
    """A run that is killed twice, without a word, and then ends: the losses of the log, once."""
    pytest.importorskip(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = store.root / "heads" / "set" / "h"
    words = ["train-loff", store.root, "--head", "linear", "--name", "h", "--epochs", epochs]
    words += ["--device", "cpu", "--log-to", name]
    command = [sys.executable, "-m", "fungi_cli", *map(str, words)]
    for least in (3, 20):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not (run / "log.jsonl").exists() or len(logged(store)) < least:
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
        child.wait()
        assert len(logged(store)) < epochs
        time.sleep(2)  # a service's own process notices, and writes what it was told
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "warning" not in done.stderr
    expected = [(epoch, pytest.approx(values["loss"])) for epoch, values in logged(store)]
    assert len(expected) == epochs
    assert read(run) == expected
