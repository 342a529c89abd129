"""The commands of the first page, run one after another as a user would type them."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import fungistore as fungi
from fungistore.errors import FungiError, StoppedError

STORE, TEXTS, SOUNDS = "images.fungi", "texts.fungi", "sounds.fungi"
UNIT_ROWS = "16"  # small, so that a stop in the middle has something to keep
OVER_SEEDS = ("--seeds", "5")
TRAINING = ("--epochs", "12", "--batch-size", "16", "--holdout", "0.2")
STOPPED = StoppedError.exit_code
KINDS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        why: what is said before it.
        words: what is typed behind `fungi`.
        is_stopped: whether it gets a SIGTERM once it has stored something.
    """

    why: str
    words: tuple[str, ...]
    is_stopped: bool = False


def first_page(demo: fungi.Demo) -> Iterator[Step]:
    """Yield what docs/getting-started.md does, from images to a table and a search page."""
    yield Step("Images in, features out; the same command again continues:", _extraction(demo))
    yield Step("What is in the store?", ("status", STORE))
    yield Step(
        "What do the gradients add to nearest neighbours? Five times, a fifth is held out:",
        ("eval", "knn", STORE, "--combinations", "nested", *OVER_SEEDS),
    )
    yield Step("An index:", ("index", STORE, "--name", "near"))
    yield Step(
        "Which images are like a new one? As a table, and as a page to look at:",
        ("search", STORE, demo.photo.name, "--index", "near", "--html", "near.html"),
    )


def whole_story(demo: fungi.Demo) -> Iterator[Step]:
    """Yield the first page with a stop in the middle, and a classifier trained on patch tensors."""
    extraction = _extraction(demo)
    yield Step("How long will it take, and how large will it be?", (*extraction, "--dry-run"))
    if not (demo.folder / STORE).exists():
        yield Step("The job, and a SIGTERM in the middle of it:", extraction, is_stopped=True)
    yield from first_page(demo)
    yield Step(
        "And to a linear probe?",
        ("eval", "linear", STORE, "--combinations", "nested", *OVER_SEEDS),
    )
    yield Step("Another feature joins those that are there:", _extraction(demo, "patches"))
    yield Step(
        "A small classifier trained on these patch tensors (LOFF-TA):",
        ("train-loff", STORE, "--head", "vit-xs", *TRAINING),
    )
    yield Step("Its test, and its answer for the new photo:", ("eval", "loff", STORE))
    yield Step("", ("predict", STORE, demo.photo.name))


def text_story(demo: fungi.TextDemo) -> Iterator[Step]:
    """Yield what the page on texts does: posts in, features out, and what each of them adds."""
    yield Step(
        "Texts in, features out; SimCLR's are of twelve copies without some of the words:",
        ("extract", demo.table.name, TEXTS, *demo.settings, "--features", "embeddings,kl,simclr"),
    )
    yield Step("What is in the store?", ("status", TEXTS))
    yield Step(
        "What do the gradients add to nearest neighbours?",
        ("eval", "knn", TEXTS, "--combinations", "nested"),
    )
    yield Step(
        "And with five texts of each class, drawn five times?",
        ("eval", "knn", TEXTS, "--combinations", "nested", "--shots", "5", *OVER_SEEDS),
    )
    yield Step("An index:", ("index", TEXTS, "--name", "near"))
    yield Step(
        "Which posts are like a sentence?",
        ("search", TEXTS, demo.query, "--index", "near", "--html", "near.html", "-k", "5"),
    )
    yield Step(
        "Examples for a language model, one line of JSON for each test post:",
        ("retrieve", TEXTS, "--k", "3", "--out", "examples.jsonl", "--force"),
    )


def sound_story(demo: fungi.SoundDemo) -> Iterator[Step]:
    """Yield what the page on sounds does: prompts of one voice, asked for by another one."""
    table = demo.table.relative_to(demo.folder).as_posix()
    yield Step(
        "Recordings in, features out; SimCLR's are of sixteen copies with noise, rolled in time:",
        ("extract", table, SOUNDS, *demo.settings, "--features", "embeddings,kl,simclr"),
    )
    yield Step("What is in the store?", ("status", SOUNDS))
    yield Step(
        "What do the gradients add, where a prompt was heard once, in another voice?",
        ("eval", "knn", SOUNDS, "--combinations", "nested", "--k", "1"),
    )
    yield Step("An index:", ("index", SOUNDS, "--name", "near"))
    query = demo.query.relative_to(demo.folder).as_posix()
    yield Step(
        "Which prompts are like a new recording? (It says goodbye.)",
        ("search", SOUNDS, query, "--index", "near", "--html", "near.html", "-k", "5"),
    )


def _extraction(demo: fungi.Demo, features: str = "embeddings,kl,dino") -> tuple[str, ...]:
    size = ("--features", features, "--unit-rows", UNIT_ROWS)
    return ("extract", demo.images.name, STORE, *demo.settings, *size)


@dataclass
class Tour:
    """Runs steps in a folder, in processes of their own, which the terminal sees.

    Attributes:
        folder: where they run.
        say: prints a line.
        as_json: whether commands are asked for JSON, and what they print is kept, not shown.
        taken: what was run so far.
    """

    folder: Path
    say: Callable[[str], None]
    as_json: bool
    taken: list[dict[str, Any]] = field(default_factory=list)

    def take(self, step: Step) -> None:
        """Run one command.

        Raises:
            FungiError: it failed; it has said why.
            StoppedError: by SIGTERM.
            KeyboardInterrupt: by SIGINT.
        """
        line = shlex.join(["fungi", *step.words])
        if step.why:
            self.say("")
            self.say(step.why)
        self.say(f"$ {line}")
        began = time.monotonic()
        with self._started(step.words) as process:
            if step.is_stopped:
                self._stop(process)
            printed = process.communicate()[0]
        code = process.returncode
        if code and not (step.is_stopped and code == STOPPED):
            raise FungiError(
                "a command of the demo failed; it has said why, above",
                where=line,
                found=f"exit code {code}",
                hint="fungi demo with the same FOLDER goes on, with another one starts afresh",
            )
        outcome = json.loads(printed) if printed else None
        seconds = round(time.monotonic() - began, 3)
        self.taken.append(
            {"command": line, "exit_code": code, "seconds": seconds, "result": outcome}
        )

    @contextmanager
    def _started(self, words: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command that hears of this process's signals from this process alone."""
        heard: list[int] = []
        command = [sys.executable, "-P", "-m", "fungi_cli", *words, *["--json"] * self.as_json]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE if self.as_json else None,
            process_group=0,
        )

        def pass_on(number: int, frame: FrameType | None) -> None:
            heard.append(number)
            process.send_signal(number)

        before = [signal.signal(kind, pass_on) for kind in KINDS]
        try:
            yield process
        finally:
            for kind, handler in zip(KINDS, before, strict=True):
                signal.signal(kind, handler)
        if heard:
            raise (
                KeyboardInterrupt
                if heard[0] == signal.SIGINT
                else StoppedError("stopped on request", hint="the same command again continues")
            )

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Send a SIGTERM as soon as a unit is stored."""
        while process.poll() is None and not self._has_rows():
            time.sleep(0.2)
        process.terminate()

    def _has_rows(self) -> bool:
        try:
            found = fungi.status(self.folder / STORE)
        except FungiError:  # not there yet
            return False
        return any(one.rows_done for group in found.feature_sets for one in group.arrays)
