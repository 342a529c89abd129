"""A training run that is killed again and again ends with the weights of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_train import store_of

from fungistore.loff.head_folder import head_run
from fungistore.training.checkpoint import load_tensors

KILLS = 6


@pytest.mark.slow
def test_killed_runs_continue_to_the_same_weights(tmp_path):
    killed, whole = store_of(tmp_path / "killed.fungi"), store_of(tmp_path / "whole.fungi")
    subprocess.run(command(whole), check=True, env=environment())
    draw = random.Random(0)
    for _ in range(KILLS):
        process = subprocess.Popen(command(killed), env=environment(), stderr=subprocess.DEVNULL)
        run = head_run(killed, "set", "h")
        before = run.progress()
        while process.poll() is None and run.progress() == before:
            time.sleep(0.02)  # until it has got somewhere
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not head_run(killed, "set", "h").progress().done
    subprocess.run(command(killed), check=True, env=environment())
    one, other = (
        load_tensors(run := head_run(store, "set", "h"), run.progress())
        for store in (killed, whole)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def command(store):
    flags = ["--name", "h", "--head", "vit-xs", "--epochs", "60", "--batch-size", "16"]
    often = ["--holdout", "0.25", "--checkpoint-minutes", "0.002", "--dropout", "0.1"]
    return [sys.executable, "-m", "fungi_cli", "train-loff", str(store.root), *flags, *often]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}
