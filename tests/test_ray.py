"""A Ray cluster whose nodes and driver die gives the store of one process, and commits once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from ray_world import PATIENCE, Nodes, Witness, asked, driver, nodes, words, world
from tiny_world import contents
from turnstile import NAME, PLACE, Turnstile, turnstile

IMAGES = 48


@pytest.fixture(scope="module")
def stile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turnstile]:
    with turnstile(tmp_path_factory.mktemp("turnstile")) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, stile: Turnstile) -> Iterator[Nodes]:
    """Workers on its nodes stop at the turnstile."""
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv(PLACE, str(stile.folder))
            started = running.enter_context(nodes(tmp_path_factory.mktemp("cluster") / "log"))
        yield started


def command(options: ExtractOptions, address: str) -> list[str]:
    return [*words(options, "s.fungi"), "--engine", "ray", "--address", address, "--json"]


def records(store: Path) -> int:
    return len(list(store.glob("commits/**/*.json")))


def test_a_node_dies_another_joins_and_the_driver_is_stopped(
    cluster: Nodes, stile: Turnstile, tmp_path: Path, tiny_weights: Path
) -> None:
    """The end is one process's store, bit for bit; no unit is committed twice, none is lost."""
    world(tmp_path, IMAGES)
    options = replace(asked(tiny_weights, 4), features=("embeddings", NAME))
    units, store = IMAGES // 4, tmp_path / "s.fungi"
    extract(tmp_path / "images", tmp_path / "whole.fungi", options)
    arrays, a_unit = records(tmp_path / "whole.fungi") // units, stile.passed // units
    flags = command(options, cluster.address)
    with Witness(store).watching() as witness:
        with driver(flags, tmp_path) as first:
            stile.wait_for(2, PATIENCE)  # both are within a slice
            cluster.kill()
            assert first.stderr is not None
            assert any("its units are placed again" in line for line in first.stderr)
            stile.allow(2 * a_unit)
            assert witness.wait_for(1, first)
            first.send_signal(signal.SIGTERM)
            assert any("stopping at the next safe point" in line for line in first.stderr)
            stile.allow(IMAGES)
            out, err = first.communicate(timeout=PATIENCE)
            assert first.returncode == 75, err
            assert json.loads(out)["exit_code"] == 75
        before = len(witness.seen)
        assert arrays <= before < arrays * units
        stile.close()
        cluster.add()
        with driver(flags, tmp_path) as second:
            stile.wait_for(2, PATIENCE)
            stile.allow(IMAGES)
            out, err = second.communicate(timeout=PATIENCE)
            assert second.returncode == 0, err
    done = json.loads(out)  # one document, and nothing of Ray's
    assert "raylet" not in err
    assert f"resuming: {before // arrays}/{units} units done" in err
    assert done["units"]["done"] == done["units"]["total"] == units
    assert all(node["images_per_second"] > 0 for node in done["nodes"])
    assert sorted(node["units"] > 0 for node in done["nodes"]) == [True, True]
    assert sum(node["units"] for node in done["nodes"]) == units - before // arrays
    assert witness.changed == []
    assert len(witness.seen) == arrays * units
    assert contents(store) == contents(tmp_path / "whole.fungi")


@pytest.mark.slow
def test_a_cluster_of_its_own_ends_with_the_run(tmp_path: Path, tiny_weights: Path) -> None:
    """It gives one process's store, and leaves no files."""
    world(tmp_path, 8)
    options = asked(tiny_weights, 4)
    temporary = Path(tempfile.mkdtemp(prefix="fr-", dir="/tmp"))  # paths of sockets are short
    extract(tmp_path / "images", tmp_path / "whole.fungi", options)
    flags = command(options, "local")
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-m", "fungi_cli", *flags],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["units"]["done"] == 2
    assert contents(tmp_path / "s.fungi") == contents(tmp_path / "whole.fungi")
    assert list(temporary.iterdir()) == []
    temporary.rmdir()


@pytest.mark.slow
def test_a_store_that_another_node_does_not_see_is_refused(
    cluster: Nodes, tmp_path: Path, tiny_weights: Path
) -> None:
    """The driver is in a mount namespace of its own, as a node with another disk is."""
    world(tmp_path, 8)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    flags = command(asked(tiny_weights, 4), cluster.address)
    flags[2] = str(hidden / "s.fungi")
    script = f'mount -t tmpfs none {hidden} && exec "$@"'
    python = [sys.executable, "-m", "fungi_cli", *flags]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *python],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("a mount namespace needs privileges")
    assert done.returncode == 1, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["what"].startswith("the store on ")
    assert error["found"] == "no store"
    assert list(hidden.iterdir()) == []


@pytest.mark.scale
def test_nodes_and_drivers_are_killed_all_the_time(tmp_path: Path, tiny_weights: Path) -> None:
    """A node every 20 seconds, the driver twice: equal, nothing committed twice, nothing lost."""
    count = 2000
    world(tmp_path, count)
    options = replace(asked(tiny_weights, 4), features=("embeddings", "kl", "dino"))
    arrays, units = 5, count // 4  # kl and dino have norms beside their gradients
    with (
        nodes(tmp_path / "log") as cluster,
        Witness(tmp_path / "s.fungi").watching() as witness,
    ):
        flags = command(options, cluster.address)
        killed, kills, last = 0, 0, time.monotonic()
        while True:
            with driver(flags, tmp_path) as running:
                while running.poll() is None:
                    time.sleep(0.1)
                    if time.monotonic() - last > 20:
                        cluster.kill()
                        cluster.add()
                        last, kills = time.monotonic(), kills + 1
                    if killed < 2 and len(witness.seen) >= (killed + 1) * arrays * units // 4:
                        running.kill()
                        killed += 1
                        break
                else:
                    out, err = running.communicate()
                    assert running.returncode == 0, err
                    break
    assert (killed, kills > 0) == (2, True)
    assert json.loads(out)["units"]["done"] == units
    assert witness.changed == []
    assert len(witness.seen) == arrays * units
    extract(tmp_path / "images", tmp_path / "whole.fungi", options)
    assert contents(tmp_path / "s.fungi") == contents(tmp_path / "whole.fungi")
