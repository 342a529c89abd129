"""The classifier of an adaptation is tested on embeddings that its backbone has made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_adapting import write_set

import fungistore as fungi
from fungistore.adaptation.evaluate import evaluate_adapted
from fungistore.adaptation.evaluate_options import AdaptedOptions
from fungistore.adaptation.options import AdaptOptions
from fungistore.adaptation.stage import adapt
from fungistore.backbones.adapters.adaptation import read_adaptation
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation.task import labelled_rows, with_validation
from fungistore.extraction.stage import extract
from fungistore.fingerprint import hash_ids
from fungistore.store.store import Store
from tiny_world import TINY

PER_CLASS = 8


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "photos", PER_CLASS)


@pytest.fixture(scope="module")
def base(tiny_weights):
    return {"model": TINY, "weights": str(tiny_weights), "image_size": 32}


def extracted(photos, store, base, adapter):
    options = fungi.ExtractOptions(
        **base, features=("embeddings",), dtype="float32", storage_dtype="float32", adapter=adapter
    )
    extract(photos, store, options)


@pytest.fixture(scope="module")
def options(base):
    return AdaptOptions(
        **base, method="ssf", epochs=1, batch_size=6, lr=3e-3, holdout=0.25, dtype="float32"
    )


@pytest.fixture(scope="module")
def store(photos, base, options, tmp_path_factory):
    """Two adaptations of other seeds but one holdout, with their features."""
    store = tmp_path_factory.mktemp("store") / "s.fungi"
    for name, rate in (("a-1", 1e-3), ("a-2", 1e-2)):
        adapt(photos, store, replace(options, name=name, lr=rate))
        extracted(photos, store, base, name)
    return store


def test_scores_are_those_of_the_classifier(store):
    """By hand: stored embeddings of the test rows, times the classifier's weights."""
    done = evaluate_adapted(store, AdaptedOptions(feature_sets=("*-1",)))
    (score,) = done.scores
    opened, found = Store.open(store), read_adaptation(store / "adaptations/a-1")
    ids = list(opened.samples.ids())
    test = np.flatnonzero(~np.isin(hash_ids(ids), found.seen))
    vectors = torch.from_numpy(
        opened.arrays("test_vit-a-1")["embeddings"].array[:][test].astype(np.float32)
    )
    logits = vectors @ found.classifier["weight"].T + found.classifier["bias"]
    truth = opened.samples.labels()[test]
    right = (logits.argmax(dim=1).numpy() == truth).mean()
    assert score.metrics["accuracy"] == right
    assert (score.n_train, score.n_test) == (10, len(test)) == (10, 4)
    assert done.protocol["adapted"] == [
        {"test_vit-a-1": {"adaptation": "a-1", "digest": found.digest}}
    ]


def test_a_pattern_averages_and_each_name_is_a_line(store):
    both = evaluate_adapted(store, AdaptedOptions(feature_sets=("test_vit-a-*",)))
    each = evaluate_adapted(store)
    assert [score.protocol["adapted"] for score in each.scores] == ["test_vit-a-1", "test_vit-a-2"]
    assert [score.protocol["adapted"] for score in both.scores] == ["test_vit-a-* (2)"]
    mean = np.mean([score.metrics["accuracy"] for score in each.scores])
    assert both.scores[0].metrics["accuracy"] == pytest.approx(mean)


def test_validation_in_training_is_what_the_stored_embeddings_give(store):
    """The features that are extracted are those that the training saw, to the last digits."""
    found, opened = read_adaptation(store / "adaptations/a-2"), Store.open(store)
    matrix = fungi.open_features(opened, ["embeddings"], feature_set="test_vit-a-2")
    rows = labelled_rows(opened, matrix.coverage(), holdout=0.25, seed=0)
    held = with_validation(rows, opened.manifest.labels, 0.2, 0).split.validation
    vectors = matrix.arrays[0].array[:][held]
    said = vectors @ found.classifier["weight"].numpy().T + found.classifier["bias"].numpy()
    right = float((said.argmax(axis=1) == rows.labels[held]).mean())
    history = (store / "adaptations/a-2/log.jsonl").read_text()
    assert f'"accuracy": {right}' in history


def test_features_of_another_adaptation_are_refused(tmp_path, photos, base, options, store):
    """Trained anew since, or gone; and features of no adaptation are not found."""
    other = tmp_path / "s.fungi"
    adapt(photos, other, options)
    extracted(photos, other, base, "ssf")
    adapt(photos, other, replace(options, lr=1e-2), restart=True)
    with pytest.raises(MismatchError, match="trained anew since"):
        evaluate_adapted(other)
    with pytest.raises(UsageError, match="no feature set 'nope' of an adapted") as caught:
        evaluate_adapted(store, AdaptedOptions(feature_sets=("nope",)))
    assert caught.value.expected == "test_vit-a-1, test_vit-a-2"
