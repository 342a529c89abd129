"""An objective of a plug-in that lets each process of a run pass so many batches, and no more.

So a test knows that processes are at work, and what they have done, whatever the machine is busy
with; and objectives of plug-ins are seen to come to wherever a run is divided to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from fungistore.objectives.registry import OBJECTIVES
from plugins import install, write_plugin

NAME, MODULE, PLACE = "turnstile", "turnstile_plugin", "FUNGI_TEST_TURNSTILE"
SOURCE = f"""
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fungistore.objectives.objective import Needs

passed = 0


@dataclass(frozen=True)
class Turnstile:
    name: ClassVar[str] = "{NAME}"
    needs = Needs(heads={{"head": 4}})

    def losses(self, views, heads, bank):
        global passed
        if place := os.environ.get("{PLACE}"):
            Path(place, f"{{os.getpid()}}.came").touch()
            while passed >= int(Path(place, "allowed").read_text()):
                time.sleep(0.02)
        passed += 1
        return heads["head"](views.embeddings[:, 0]).square().sum(-1)
"""


@dataclass(frozen=True)
class Turnstile:
    """What a test has of it: processes that have `PLACE` wait there, and its own does not."""

    folder: Path

    def close(self) -> None:
        """Let no process pass, of those that come from now on."""
        self.allow(0)
        for came in self.folder.glob("*.came"):
            came.unlink()

    @property
    def passed(self) -> int:
        """How often this process has passed: more than once a batch, if that is cut up."""
        return int(import_module(MODULE).passed)

    def allow(self, times: int) -> None:
        """Let each process pass so often, all together."""
        (self.folder / "next").write_text(str(times))
        (self.folder / "next").rename(self.folder / "allowed")

    def wait_for(self, processes: int, patience: float) -> None:
        """Wait until so many have come."""
        deadline = time.monotonic() + patience
        while (came := len(list(self.folder.glob("*.came")))) < processes:
            assert time.monotonic() < deadline, f"{came} of {processes} processes came"
            time.sleep(0.02)


@contextmanager
def turnstile(folder: Path) -> Iterator[Turnstile]:
    """Install the plug-in, here and for all processes that are started within the block."""
    entries = {"fungistore.objectives": {NAME: f"{MODULE}:Turnstile"}}
    write_plugin(folder / "site", MODULE, SOURCE, entries)
    made = Turnstile(folder)
    made.close()
    with pytest.MonkeyPatch.context() as patched:
        install(patched, folder / "site", MODULE, OBJECTIVES)
        before = os.environ.get("PYTHONPATH")
        path = [str(folder / "site"), *([before] if before else [])]
        patched.setenv("PYTHONPATH", os.pathsep.join(path))
        yield made
