"""SIGKILL while banks and features of the ablations' objectives are made, by one process or two."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from fungistore.store.store import Store
from text_world import WORDS, save_encoder
from tiny_world import TINY, contents, write_images

COUNT, UNIT = 24, 4
FC2 = "blocks.5.mlp.fc2"
# Everything takes long enough to be killed in the middle, and a block of a bank is a batch.
PROGRAM = """
import sys, time
from fungistore.extraction import bank_blocks
from fungistore.extraction.features import FeatureMaker

def slowed(method):
    def slow(*arguments):
        time.sleep(0.1)
        return method(*arguments)
    return slow

bank_blocks.BLOCK_SECONDS = 0.0
FeatureMaker.latents = slowed(FeatureMaker.latents)
FeatureMaker.compute = slowed(FeatureMaker.compute)
from fungi_cli.__main__ import main
if __name__ == "__main__":  # a worker that is spawned imports this file, too
    sys.exit(main())
"""


@dataclass(frozen=True)
class Case:
    """An extraction.

    Attributes:
        features: what it makes.
        more: further flags.
        has_bank: whether a bank comes before the first unit.
    """

    features: str
    more: tuple[str, ...] = ()
    has_bank: bool = False


DEEP = ("--set", "deepcluster.prototypes=7", "--set", "deepcluster.head_dim=8")
LAYERS = ("--target-layer", f"blocks.5.attn.proj,{FC2}")
CASES = {
    "layers": Case("kl,ibot,deepcluster", (*DEEP, *LAYERS, "--set", "ibot.head_dim=16"), True),
    "bank-from": Case("deepcluster,simclr", (*DEEP, "--bank-from", "lender.fungi")),
    "mlm": Case("mlm,kl"),
}


@dataclass(frozen=True)
class Place:
    """Where programs run."""

    folder: Path
    weights: Path

    def start(self, store: str, case: Case, *more: str) -> subprocess.Popen[bytes]:
        is_text = "mlm" in case.features
        model = f"text:{self.folder / 'bert'}" if is_text else TINY
        command = [sys.executable, "slow.py", "extract", "t.csv" if is_text else "images", store]
        command += ["--model", model, "--device", "cpu", "--features", case.features]
        command += ["--batch-size", "2", "--unit-rows", str(UNIT)]
        command += ["--dtype", "float32"]  # else each store's first run times what is faster
        if not is_text:
            command += ["--weights", str(self.weights), "--image-size", "32"]
        return subprocess.Popen(
            [*command, *case.more, *more],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def kill_when(
        self, process: subprocess.Popen[bytes], store: str, *, blocks: int = 0, units: int = 0
    ) -> None:
        """Kill a process when so much of it is on the disk; it must not have ended before."""
        root, ends = self.folder / store, time.monotonic() + 240

        def is_there() -> bool:
            made = len(list(root.glob("commits/*/gradients/*/*.json")))
            return made >= units and len(list(root.glob("setups/*/latents.*"))) >= blocks

        while not is_there() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert is_there()


@pytest.fixture
def place(tmp_path: Path, tiny_weights: Path) -> Place:
    write_images(tmp_path / "images", COUNT, seed=4)
    drawn = random.Random(0)
    lines = [f"{n},{' '.join(drawn.choices(WORDS, k=7))}" for n in range(COUNT)]
    (tmp_path / "t.csv").write_text("\n".join(["id,text", *lines]))
    save_encoder(tmp_path / "bert", "bert", words=True)
    (tmp_path / "slow.py").write_text(PROGRAM)
    return Place(tmp_path, tiny_weights)


def ended(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    return [process.wait(timeout=240) for process in processes]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_was_killed_becomes_the_store_of_one_quiet_run(place: Place, name: str) -> None:
    """Killed while its bank is made and among its units, then gone on with by two processes.

    They take units in an order of their own, and the one run has read them with other workers.
    """
    case, store = CASES[name], "s.fungi"
    if name == "bank-from":
        lender = Case(case.features, DEEP)
        assert ended([place.start("lender.fungi", lender, "--limit", "9")]) == [0]
    assert ended([place.start("quiet.fungi", case, "--workers", "2")]) == [0]
    if case.has_bank:
        place.kill_when(place.start(store, case), store, blocks=3)
    place.kill_when(place.start(store, case), store, units=1)
    both = [place.start(store, case, "--worker-id", n, "--num-workers", "2") for n in "01"]
    assert ended(both) == [0, 0]
    ours, theirs = contents(place.folder / store), contents(place.folder / "quiet.fungi")
    assert ours.keys() == theirs.keys()
    assert [path for path in ours if ours[path] != theirs[path]] == []
    assert len(Store.open(place.folder / store).samples) == COUNT
