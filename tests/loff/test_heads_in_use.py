"""Trained heads are tested on rows that they have not seen, and classify new images."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fungi_cli.main import app
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score
from torch.utils.data import default_collate
from typer.testing import CliRunner

from feature_world import write_block
from fungistore import ExtractOptions, extract
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation import confusion
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import Augmentation, PredictOptions, TrainOptions
from fungistore.loff.predict import predict_images, predict_rows
from fungistore.loff.stored import head_rows, load_head, open_head
from fungistore.loff.train import train_loff
from fungistore.store.store import Store
from tiny_world import TINY, write_images


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_weights):
    """A store of two kinds of images by the tiny model, and four heads."""
    root = tmp_path_factory.mktemp("loff")
    for number, name in enumerate(("cat", "dog")):
        write_images(root / "images" / name, 20, seed=number)
    options = ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=64,
        features=("embeddings", "patches"),
        dtype="float32",
        unit_rows=8,
    )
    extract(str(root / "images"), root / "s.fungi", options)
    for name, seed in (("a-0", 0), ("a-1", 1)):
        train_loff(root / "s.fungi", settings(name, seed))
    train_loff(root / "s.fungi", settings("linear", 0, head="linear"))
    both = {"pool": 2, "class_token": True}
    train_loff(root / "s.fungi", settings("pooled", 0, head="attn-pool", epochs=1, **both))
    return root


def settings(name, seed, **changes):
    quick = {"head": "vit-xs", "epochs": 2, "batch_size": 8, "holdout": 0.3, "dtype": "float32"}
    return TrainOptions(
        **(quick | changes), name=name, seed=seed, augment=Augmentation(kind="none", noise=0.0)
    )


def test_scores_are_of_the_held_out_rows(world):
    """The oracle asks the head for each test row by itself."""
    store = Store.open(world / "s.fungi")
    data = head_rows(store, open_head(store, TINY, "a-0"))
    assert len(data.split.test) == 12
    said = predict_rows(
        store.root, data.split.test.tolist(), PredictOptions(head="a-0")
    ).predictions
    truth = data.labels[data.split.test]
    labels = np.array([data.names.index(one.label) for one in said])
    chances = np.array([one.probabilities[data.names[1]] for one in said])
    done = evaluate_loff(store.root, LoffOptions(heads=("a-0",)))
    (score,) = done.scores
    assert score.metrics["accuracy"] == (labels == truth).mean()
    assert score.metrics["roc_auc"] == pytest.approx(roc_auc_score(truth, chances))
    assert np.array_equal(done.confusion, confusion_matrix(truth, labels))
    assert (score.n_train, score.n_test) == (22, 12)


def test_a_head_is_a_torch_module(world):
    """From the features of a dataset to the classes that `predict` says."""
    stored = load_head(world / "s.fungi", "a-0")
    dataset = Store.open(world / "s.fungi").dataset("patches", rows=[3, 30])
    batch = default_collate([dataset[0], dataset[1]])
    with torch.no_grad():
        labels = stored.head(batch["patches"].float()).argmax(1)
    said = predict_rows(world / "s.fungi", [3, 30], PredictOptions(head="a-0")).predictions
    assert [stored.classes[label] for label in labels] == [one.label for one in said]
    with pytest.raises(UsageError, match="which head"):
        load_head(world / "s.fungi")
    with pytest.raises(UsageError, match="no head"):
        load_head(world / "s.fungi", "none")


def test_heads_of_one_pattern_are_averaged(world):
    done = evaluate_loff(world / "s.fungi", LoffOptions(heads=("a-0", "a-1", "a-*")))
    one, two, both = (score.metrics["accuracy"] for score in done.scores)
    assert both == pytest.approx((one + two) / 2)
    deviation = done.scores[2].metrics["accuracy_deviation"]
    assert deviation == pytest.approx(np.std([one, two], ddof=1))


def test_heads_of_different_kinds_are_not_averaged(world):
    with pytest.raises(UsageError, match="different kinds"):
        evaluate_loff(world / "s.fungi", LoffOptions(heads=("*",)))


@pytest.mark.parametrize("head", ["a-0", "linear", "pooled"])
def test_an_image_of_the_store_is_classified_like_its_row(world, head):
    path = world / "images/dog/003.jpg"
    (from_file,) = predict_images(world / "s.fungi", path, PredictOptions(head=head)).predictions
    store = Store.open(world / "s.fungi")
    ids = [row["id"] for row in store.samples.rows(0, 40)]
    (from_row,) = predict_rows(
        store.root, [ids.index("dog/003.jpg")], PredictOptions(head=head)
    ).predictions
    assert from_row.input == "dog/003.jpg"
    assert from_file.label == from_row.label
    for name, chance in from_row.probabilities.items():
        assert from_file.probabilities[name] == pytest.approx(chance, abs=1e-3)
    assert sum(from_file.probabilities.values()) == pytest.approx(1)


def test_images_that_cannot_be_read_are_listed(world, tmp_path):
    broken, good = tmp_path / "broken.jpg", tmp_path / "good.png"
    broken.write_bytes(b"no image")
    Image.new("RGB", (50, 40), "red").save(good)
    inputs = [str(broken), str(good), str(tmp_path / "none.jpg")]
    run = CliRunner().invoke(
        app, ["predict", str(world / "s.fungi"), *inputs, "--head", "a-0", "--json"]
    )
    assert run.exit_code == 3, run.stderr
    document = json.loads(run.stdout)
    assert [one["input"] for one in document["predictions"]] == [str(good)]
    assert set(document["failed"]) == {inputs[0], inputs[2]}


def test_paths_come_from_stdin(world):
    path = str(world / "images/cat/000.jpg")
    run = CliRunner().invoke(
        app, ["predict", str(world / "s.fungi"), "-", "--head", "a-0"], input=path + "\n"
    )
    assert run.exit_code == 0, run.stderr
    assert len(run.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["--rows", "0-3", "x.jpg"], 2),
        (["--rows", "99"], 2),
        (["--rows", "a-b"], 2),
        (["--rows", "1", "--head", "none"], 2),
        (["--rows", "1"], 2),
        (["--rows", "1", "--head", "a-*"], 2),
    ],
)
def test_bad_requests_exit_2(world, arguments, code):
    assert (
        CliRunner().invoke(app, ["predict", str(world / "s.fungi"), *arguments]).exit_code == code
    )


def test_a_head_of_features_that_were_made_anew_is_refused(world, tmp_path):
    import shutil

    copy = tmp_path / "copy.fungi"
    shutil.copytree(world / "s.fungi", copy)
    store = Store.open(copy)
    patches = store.arrays(TINY)["patches"]
    values = patches.read(0, 40)
    store.remove_arrays([patches])
    write_block(store, TINY, "patches", values, unit_rows=8, salt=1)
    with pytest.raises(MismatchError, match="trained on other features"):
        evaluate_loff(copy, LoffOptions(heads=("a-0",)))
    with pytest.raises(MismatchError):
        predict_rows(copy, [0], PredictOptions(head="a-0"))
    run = CliRunner().invoke(app, ["eval", "loff", str(copy), "--head", "a-0"])
    assert run.exit_code == 4


def test_the_command_saves_json_and_draws_the_confusion(world, tmp_path):
    picture = tmp_path / "confusion.png"
    arguments = ["eval", "loff", str(world / "s.fungi"), "--head", "a-0", "--plot", str(picture)]
    run = CliRunner().invoke(app, [*arguments, "--json"])
    assert run.exit_code == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["classes"] == ["cat", "dog"]
    assert sum(map(sum, document["confusion"])) == 12
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
    assert CliRunner().invoke(app, [*arguments[:-1], "x.gif"]).exit_code == 2


def test_a_confusion_of_many_classes_has_no_numbers():
    small = confusion.draw_confusion(["a", "b"], [[3, 1], [0, 4]])
    assert {text.get_text() for text in small.axes[0].texts} == {"3", "1", "0", "4"}
    names = [f"class {number}" for number in range(40)]
    large = confusion.draw_confusion(names, np.eye(40, dtype=int).tolist())
    assert not large.axes[0].texts


def test_a_named_run_keeps_the_augmentation_that_it_began_with(world):
    """Which was another one where nobody said, before pooling heads had none."""
    begun = settings("old", 0, head="attn-pool", epochs=1)
    begun = replace(begun, augment=Augmentation(kind="trivial"))
    trained = train_loff(world / "s.fungi", begun)
    unsaid = replace(begun, augment=Augmentation())
    again = train_loff(world / "s.fungi", unsaid)
    assert again.fingerprint == trained.fingerprint
    with pytest.raises(MismatchError, match="kind"):
        train_loff(world / "s.fungi", replace(begun, augment=Augmentation(kind="none")))


def test_the_training_command(world):
    arguments = ["train-loff", str(world / "s.fungi"), "--head", "attn-pool", "--epochs", "1"]
    run = CliRunner().invoke(app, [*arguments, "--holdout", "0.3", "--json"])
    assert run.exit_code == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["name"] == "attn-pool"  # which pools: its tensors are augmented if asked for
    assert document["validation"].keys() >= {"accuracy", "mean_per_class_accuracy"}
    assert "next: fungi eval loff" in run.stderr
    bad = CliRunner().invoke(app, [*arguments, "--augment", "wobble"])
    assert bad.exit_code == 2
    other = CliRunner().invoke(app, [*arguments, "--holdout", "0.3", "--lr", "1e-5"])
    assert other.exit_code == 4
