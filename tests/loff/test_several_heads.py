"""Heads of several seeds are those of as many trainings, whoever trained which."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from engine_world import OddTurns, files_of
from feature_world import Notices, clustered, make_store
from fungistore.errors import MismatchError, StoppedError, UsageError
from fungistore.loff.options import HeadsOptions, TrainOptions
from fungistore.loff.several import train_heads
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context
from stage_world import FUNGI

OPTIONS = HeadsOptions(
    head="linear", epochs=2, batch_size=16, lr=1e-2, holdout=0.25, dtype="float32", seed=3, seeds=3
)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads") / "s.fungi"
    vectors, labels = clustered(96, 3, 12, seed=4, noise=4)
    patches = np.random.default_rng(0).normal(size=(96, 4, 4, 64))
    blocks = {"embeddings": vectors, "patches": patches.astype(np.float16)}
    make_store(root, blocks, labels, unit_rows=32)
    return root


@pytest.fixture
def root(features, tmp_path):
    return shutil.copytree(features, tmp_path / "s.fungi")


def weights(root):
    """The bytes of what was trained, by path: all but times and speeds."""
    return {
        name: data
        for name, data in files_of(root).items()
        if name.startswith("heads/") and name.endswith(".safetensors")
    }


@pytest.mark.parametrize("slices", [None, 1, 2, 5])
def test_each_head_is_that_of_its_own_training(root, features, tmp_path, slices):
    """Names, seeds, weights and scores, in turn or by workers, lost ones among them."""
    expected = shutil.copytree(features, tmp_path / "one-by-one.fungi")
    own = [
        train_loff(expected, OPTIONS.of_one(seed=seed, name=f"linear-s{seed}"))
        for seed in (3, 4, 5)
    ]
    engine = {} if slices is None else {"engine": OddTurns(slices, lost_after=9)}
    done = train_heads(root, OPTIONS, **engine)
    assert weights(root) == weights(expected)
    assert len(weights(root)) >= 3
    same = {"store": "", "images_per_second": 0}
    assert [replace(one, **same) for one in done.heads] == [replace(one, **same) for one in own]
    scores = [one.validation["accuracy"] for one in own]
    assert done.validation["accuracy"] == pytest.approx(np.mean(scores))
    assert done.validation["accuracy_deviation"] == pytest.approx(np.std(scores, ddof=1))


def test_a_stopped_one_goes_on(root, features, tmp_path):
    """What is trained is not trained again; the weights are those of no stop."""
    expected = shutil.copytree(features, tmp_path / "e.fungi")
    train_heads(expected, OPTIONS)
    steps = count()
    with pytest.raises(StoppedError):
        train_heads(root, OPTIONS, context=Context(stop=lambda: next(steps) > 14))
    assert 0 < len(list((root / "heads" / "set").iterdir())) < 3
    said = []
    train_heads(root, OPTIONS, context=Context(Notices(said)))
    assert [line for line in said if line.startswith("nothing to do")]
    assert weights(root) == weights(expected)


def test_more_seeds_later_are_the_further_ones(root):
    """Three heads are among five; other settings are refused as of one."""
    train_heads(root, OPTIONS)
    before = weights(root)
    done = train_heads(root, replace(OPTIONS, seeds=5), engine=OddTurns(2))
    assert [one.name for one in done.heads] == [f"linear-s{seed}" for seed in range(3, 8)]
    assert before.items() < weights(root).items()
    with pytest.raises(MismatchError):
        train_heads(root, replace(OPTIONS, lr=1e-3), engine=OddTurns(2))
    said = []
    again = replace(OPTIONS, lr=1e-3)
    train_heads(root, again, restart=True, engine=OddTurns(2), context=Context(Notices(said)))
    assert [line for line in said if line.startswith("--restart: deleting head 'linear-s3'")]


def test_the_command_trains_and_tells(root):
    """A row a head, means and deviations; JSON; one head stays as it was named."""
    words = ["train-loff", str(root), "--head", "linear", "--epochs", "1", "--holdout", "0.25"]
    done = CliRunner().invoke(app, [*words, "--seeds", "2", "--split-seed", "0"])
    assert done.exit_code == 0, done.output
    assert "linear-s0" in done.stdout
    assert "linear-s1" in done.stdout
    assert "accuracy" in done.stdout
    assert " ± " in done.stdout
    assert "--head 'linear-s*'" in done.stderr
    shown = CliRunner().invoke(app, [*words, "--seeds", "2", "--split-seed", "0", "--json"])
    document = json.loads(shown.stdout)
    assert [one["name"] for one in document["heads"]] == ["linear-s0", "linear-s1"]
    averaged = ["eval", "loff", str(root), "--head", "linear-s*", "--ensemble", "--json"]
    assert CliRunner().invoke(app, averaged).exit_code == 0
    one = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(one.stdout)["name"] == "linear"
    refused = CliRunner().invoke(app, [*words, "--processes", "2"])
    assert (refused.exit_code, "--seeds" in refused.stderr) == (2, True)


def test_one_head_of_python_is_not_several(root):
    """The settings of several give those of one, and no seeds are frozen with a head."""
    assert OPTIONS.of_one() == TrainOptions(
        head="linear", epochs=2, batch_size=16, lr=1e-2, holdout=0.25, dtype="float32", seed=3
    )
    with pytest.raises(UsageError, match="--seeds"):
        HeadsOptions(seeds=0)


@pytest.mark.slow
def test_processes_train_the_same_heads(root, features, tmp_path):
    """Bit for bit, with another number of threads, which torch would divide this head's sums by."""
    words = ["train-loff", "--head", "attn-pool", "--epochs", "1", "--holdout", "0.25"]
    other = shutil.copytree(features, tmp_path / "other.fungi")
    for place, threads, flags in ((root, "3", []), (other, "1", ["--processes", "2"])):
        subprocess.run(
            [*FUNGI, *words, "--seeds", "3", "--device", "cpu", str(place), *flags],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": threads},
        )
    assert len(weights(root)) >= 3
    assert weights(other) == weights(root)
