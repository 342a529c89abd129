"""The classifier of an adaptation is tested on embeddings that its backbone has made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import fungistore as fungi
from adapted_world import write_set
from feature_world import Notices
from fungistore.adaptation.evaluate import evaluate_adapted
from fungistore.adaptation.evaluate_options import AdaptedOptions
from fungistore.adaptation.options import AdaptOptions
from fungistore.adaptation.stage import adapt
from fungistore.backbones.adapters.adaptation import read_adaptation
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation.task import labelled_rows, with_validation
from fungistore.extraction.stage import extract
from fungistore.fingerprint import hash_ids
from fungistore.machine.context import Context
from fungistore.store.store import Store
from tiny_world import TINY

PER_CLASS = 8


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "photos", PER_CLASS)


@pytest.fixture(scope="module")
def base(tiny_weights):
    return {"model": TINY, "weights": str(tiny_weights), "image_size": 32}


def extracted(photos, store, base, adapter, batch_size=4):
    chosen = {"features": ("embeddings",), "dtype": "float32", "storage_dtype": "float32"}
    options = fungi.ExtractOptions(**base, **chosen, adapter=adapter, batch_size=batch_size)
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
    for seed, name in enumerate(("a-1", "a-2")):
        adapt(photos, store, replace(options, name=name, seed=seed, split_seed=0))
        extracted(photos, store, base, name, batch_size=4 + seed)  # as free memory may decide it
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


def test_speed_memory_and_a_kappa_are_told(tmp_path, store):
    """Of the training from its run; of the backbone where it is asked to run."""
    asked = AdaptedOptions(feature_sets=("*-1",), time_backbone=2, kappa=True)
    done = evaluate_adapted(store, asked)
    (speed,), (score,) = done.speed, done.scores
    kept = json.loads((store / "adaptations/a-1/speed.json").read_text())
    assert speed.training.images_per_second == pytest.approx(kept["rows"] / kept["seconds"])
    assert speed.training.peak_rss_bytes == kept["peak_rss_bytes"] > 1e7
    assert speed.inference.backbone > speed.inference.backbone_and_head > 0
    assert "quadratic_kappa" in score.metrics
    (table,) = done.details()
    assert table.rows[0][0] == "test_vit-a-1"
    bare = shutil.copytree(store, tmp_path / "s.fungi")
    (bare / "adaptations/a-1/speed.json").unlink()
    plain = evaluate_adapted(bare, AdaptedOptions(feature_sets=("*-1",)))
    assert plain.speed[0].training is None
    assert plain.speed[0].inference.backbone_and_head is None
    assert "quadratic_kappa" not in plain.scores[0].metrics


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


def test_adaptations_of_other_seeds_are_a_row_of_the_table(store):
    """And heads on features of each are another; a head of other settings is not among them."""
    rows = {"holdout": 0.25, "split_seed": 0, "head": "linear", "dtype": "float32"}
    for seed, epochs in ((1, 1), (2, 1), (3, 2)):
        name, chosen = f"linear-{seed}", f"test_vit-a-{min(seed, 2)}"
        made = fungi.TrainOptions(**rows, name=name, feature_set=chosen, seed=seed, epochs=epochs)
        fungi.train_loff(store, made)
    table = fungi.table_loff(store)
    heads = {(row.method, row.name): row.cells[str(store)] for row in table.rows}
    assert [*heads] == [
        ("SSF", "a-* (2)"),
        ("SSF + linear", "linear-* (2)"),
        ("SSF + linear", "linear-3"),
    ]
    both = evaluate_adapted(store, AdaptedOptions(feature_sets=("test_vit-a-*",)))
    assert heads["SSF", "a-* (2)"].metrics == both.scores[0].metrics
    assert heads["SSF + linear", "linear-* (2)"].heads == (
        "test_vit-a-1/linear-1",
        "test_vit-a-2/linear-2",
    )
    assert table.rows[0].speed.training == both.speed[0].training
    lines = ("V=adaptations/a-2", "H=linear-[12]")
    named = fungi.table_loff(store, fungi.LoffTableOptions(lines=lines)).rows
    assert [(row.method, row.cells[str(store)].heads) for row in named] == [
        ("V", ("a-2",)),
        ("H", ("test_vit-a-1/linear-1", "test_vit-a-2/linear-2")),
    ]


def test_an_adaptation_that_was_trained_anew_is_no_row(tmp_path, photos, options, store):
    """Its features are not its own any more; that is said, and the other one stays."""
    other = shutil.copytree(store, tmp_path / "s.fungi")
    again = replace(options, name="a-2", seed=1, split_seed=0, lr=1e-2)
    adapt(photos, other, again, restart=True)
    table = fungi.table_loff(other, context=Context(Notices(said := [])))
    assert [row.name for row in table.rows if row.method == "SSF"] == ["a-1"]
    assert any("'a-2' is left out: it was trained anew" in text for text in said)


def test_images_that_were_trained_on_are_known_under_other_ids(tmp_path, photos, base, store):
    """A folder that was renamed, or is listed from elsewhere, has the same images."""
    for name in ("red", "blue"):
        shutil.copytree(photos / name, tmp_path / "all" / name / "sub")
    other = tmp_path / "s.fungi"
    extracted(tmp_path / "all", other, base, str(store / "adaptations/a-1"))
    with pytest.raises(UsageError, match="was adapted on") as caught:
        fungi.evaluate_knn(other, fungi.KnnOptions(k=1, holdout=0.25, seed=1))
    assert "/sub/" in str(caught.value.found)
    assert evaluate_adapted(other).scores  # in the same order, so the same are held out


def test_each_frozen_backbone_has_a_split_of_its_own(tmp_path, photos, base, options):
    """Linear classifiers share a backbone, so what counts is what each of them was trained on."""
    linear = replace(options, method="linear", name="l")
    adapt(photos, tmp_path / "s.fungi", linear)
    extracted(photos, tmp_path / "s.fungi", base, "l")
    adapt(photos, tmp_path / "s.fungi", replace(linear, seed=1), restart=True)
    assert evaluate_adapted(tmp_path / "s.fungi").scores[0].n_test == 4


@pytest.mark.slow
def test_an_adaptation_holds_out_whole_groups(photos, base, options, tmp_path):
    """Of the images of a patient all are tested on or none; what it has seen is said by them."""
    table = tmp_path / "photos.csv"
    files = sorted(photos.rglob("*.png"))
    rows = [f"{one},{one.parent.name},p{place // 4}" for place, one in enumerate(files)]
    table.write_text("\n".join(["path,label,patient", *rows]))
    store, grouped = tmp_path / "s.fungi", replace(options, name="g", group="patient")
    done = adapt(table, store, grouped)
    assert done.split["group"] == "patient"
    extracted(table, store, base, "g")
    (score,) = evaluate_adapted(store).scores
    assert (score.n_test, score.n_test % 4) == (len(files) - done.n_train - done.n_validation, 0)
    with pytest.raises(UsageError, match="was adapted on") as caught:
        fungi.evaluate_knn(store, fungi.KnnOptions(k=1, holdout=0.25))
    assert "--group" in caught.value.hint
    fungi.evaluate_knn(store, fungi.KnnOptions(k=1, holdout=0.25, group="patient"))
