"""Kills, and real weights on real images: minutes, so behind `slow`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import fungistore as fungi
from adapted_world import write_set
from fungistore.adaptation.folder import adaptation_run
from fungistore.demo.images import textile_subset
from fungistore.demo.weights import dinov2_vits14_weights
from fungistore.errors import FungiError, UsageError
from fungistore.store.store import Store
from fungistore.training.checkpoint import load_tensors
from tiny_world import TINY

KILLS = 3
DINO = "vit_small_patch14_dinov2.lvd142m"


@pytest.mark.slow
def test_killed_runs_continue_to_the_same_weights(tmp_path, tiny_weights):
    """SIGKILL at any moment, the reading of all images before the first step among them."""
    photos = write_set(tmp_path / "photos", 12)

    def command(store):
        flags = ["--image-size", "32", "--method", "lora", "--name", "a", "--epochs", "16"]
        flags += ["--batch-size", "4", "--checkpoint-minutes", "0.002", "--dtype", "float32"]
        model = ["--model", TINY, "--weights", str(tiny_weights), "--auto-augment", "trivial"]
        return [sys.executable, "-m", "fungi_cli", "adapt", str(photos), str(store), *model, *flags]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole.fungi", tmp_path / "killed.fungi"
    subprocess.run(command(whole), check=True, env=environment)
    draw = random.Random(0)
    state = killed / "adaptations/a/state.json"
    for _ in range(KILLS):
        before = state.read_bytes() if state.exists() else b""
        process = subprocess.Popen(command(killed), env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not state.exists() or state.read_bytes() == before):
            time.sleep(0.01)  # until it has got somewhere
        time.sleep(draw.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not adaptation_run(Store.open(killed), "a").progress().done
    subprocess.run(command(killed), check=True, env=environment)
    one, other = (
        load_tensors(run := adaptation_run(Store.open(store), "a"), run.progress())
        for store in (killed, whole)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_adapt_extract_train_and_evaluate_on_textile(tmp_path):
    """A DINOv2 is adapted to 30 images a class; its features train a head, and both are tested."""
    try:
        weights = dinov2_vits14_weights()
        images = textile_subset(30, tmp_path / "images")
    except FungiError as error:
        pytest.skip(str(error))
    store = tmp_path / "s.fungi"
    model = {"model": DINO, "weights": str(weights), "image_size": 56}
    split = {"holdout": 0.3, "seed": 0}
    options = fungi.AdaptOptions(**model, **split, method="ssf", epochs=2, batch_size=8)
    adapted = fungi.adapt(images, store, options)
    history = adaptation_run(Store.open(store), "ssf").progress().history
    assert history[1]["loss"] < history[0]["loss"]
    features = ("embeddings", "patches")
    extracted = fungi.ExtractOptions(**model, features=features, adapter="ssf")
    chosen = fungi.extract(images, store, extracted).feature_set
    assert chosen == f"{DINO}-ssf"
    head = fungi.TrainOptions(**split, head="attn-pool", epochs=2, batch_size=16)
    trained = fungi.train_loff(store, head)
    assert (trained.n_train, trained.n_validation) == (adapted.n_train, adapted.n_validation)
    (own,) = fungi.evaluate_adapted(store).scores
    (of_head,) = fungi.evaluate_loff(store).scores
    assert own.n_test == of_head.n_test == 27
    with pytest.raises(UsageError, match="the model was adapted on"):
        fungi.evaluate_knn(store, fungi.KnnOptions(holdout=0.3, seed=1))
