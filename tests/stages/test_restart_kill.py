"""--restart, killed before each of its steps: nothing of the old is taken for the new."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import restart_crash_points as points

from fungistore.errors import MismatchError
from fungistore.verification.verify import verify_store


@pytest.mark.slow
@pytest.mark.parametrize("stage", points.STAGES)
def test_a_killed_restart_leaves_nothing_of_the_old(tmp_path: Path, stage: str) -> None:
    """The same command without --restart, or with it if it is refused, ends as if never killed."""
    script = [sys.executable, points.__file__, stage, tmp_path]
    run = subprocess.run(script, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    *killed, finished = sorted(path for path in tmp_path.iterdir() if path.name != "before")
    assert len(killed) > 20
    refused = 0
    for root in killed:
        try:
            points.STAGES[stage](root, points.AFTER, restart=False)
        except MismatchError:
            refused += 1
            points.STAGES[stage](root, points.AFTER, restart=True)
        assert files(root) == files(finished), root.name
        assert verify_store(root).findings == ()
    assert 0 < refused < len(killed)


def files(root: Path) -> dict[str, bytes]:
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}
