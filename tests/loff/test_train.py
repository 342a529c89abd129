"""A head trains on cached tensors, resumes to the same weights, and never sees test rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from feature_world import Notices, make_store
from fungistore.errors import FungiError, MismatchError, StoppedError, UsageError
from fungistore.loff.data import moments, open_head_data
from fungistore.loff.head_folder import head_run
from fungistore.loff.loader import PatchLoader
from fungistore.loff.options import Augmentation, TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context
from fungistore.store.store import Store
from fungistore.training.checkpoint import load_tensors
from fungistore.training.order import Sequential
from fungistore.training.speed import read_speed

pytestmark = pytest.mark.usefixtures("small_heads")
ROWS, SIDE, CHANNELS, CLASSES = 96, 4, 8, 3


def patterns(seed=0):
    """Feature maps whose class is the channel of a bright cell and a dark one; means are equal."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(ROWS, SIDE**2, CHANNELS))
    numbers = np.arange(ROWS) % CLASSES
    for row, number in enumerate(numbers):
        bright, dark = random.choice(SIDE**2, 2, replace=False)
        values[row, bright, number] += 8
        values[row, dark, number] -= 8
    shape = (ROWS, SIDE, SIDE, CHANNELS)
    return values.reshape(shape).astype(np.float16), [f"class {number}" for number in numbers]


def store_of(root, values=None, labels=None, splits=None):
    made, names = patterns()
    values = made if values is None else values
    blocks = {"patches": values, "embeddings": values.mean(axis=(1, 2)).astype(np.float16)}
    return make_store(root, blocks, labels or names, splits, unit_rows=32)


def options(**changes):
    quick = {
        "head": "vit-xs",
        "name": "h",
        "epochs": 3,
        "batch_size": 16,
        "lr": 1e-3,
        "holdout": 0.25,
        "dtype": "float32",
        "drop_path": 0.1,
        "dropout": 0.1,
    }
    return TrainOptions(**(quick | changes))


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path / "s.fungi")


def weights(store, name="h"):
    run = head_run(store, "set", name)
    return load_tensors(run, run.progress())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_head_learns_what_a_linear_probe_cannot(store):
    plain = Augmentation(kind="none", noise=0.0)
    settings = {"epochs": 20, "lr": 3e-3, "batch_size": 8, "drop_path": 0.0, "dropout": 0.0}
    result = train_loff(store.root, options(**settings, augment=plain))
    assert result.validation["accuracy"] > 0.9
    assert (result.n_train, result.n_validation) == (57, 15)
    assert result.epochs == 20
    linear = train_loff(store.root, options(**settings, head="linear", name="l"))
    assert linear.validation["accuracy"] < 0.8


@pytest.mark.parametrize("steps", [1, 4, 7, 11])
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path, store, steps):
    other = store_of(tmp_path / "other.fungi")
    train_loff(other.root, options())
    calls = iter(range(10_000))
    with pytest.raises(StoppedError):
        train_loff(store.root, options(), context=Context(stop=lambda: next(calls) >= steps))
    assert not head_run(store, "set", "h").progress().done
    said = []
    train_loff(store.root, options(), context=Context(Notices(said)))
    assert any("resuming" in text for text in said) or steps == 1
    assert same(weights(store), weights(other))
    history = head_run(store, "set", "h").progress().history
    assert history == head_run(other, "set", "h").progress().history
    log = (store.root / "heads/set/h/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == [1, 2, 3]


@pytest.mark.parametrize(("steps", "rows"), [(7, 9), (8, 57)])
def test_speed_is_of_the_rows_that_a_process_has_trained_on(store, steps, rows):
    """Of 57 in each of two epochs, 9 were left; or none, and what the first process said stays."""
    calls = iter(range(1, 10_000))
    stop = Context(stop=lambda: next(calls) >= steps)
    with pytest.raises(StoppedError):
        train_loff(store.root, options(epochs=2, cache="none"), context=stop)
    result = train_loff(store.root, options(epochs=2, cache="none"))
    speed = read_speed(head_run(store, "set", "h"))
    assert speed is not None
    assert speed.rows == rows
    assert (result.images_per_second > 0) == (steps == 7)


@pytest.mark.parametrize(
    ("augment", "is_said"),
    [
        (Augmentation(), False),
        (Augmentation(kind="none"), False),
        (Augmentation(mixup=0.2), True),
        (Augmentation(kind="none", drop_tokens=0.5), True),
    ],
)
def test_a_linear_head_says_that_it_augments_nothing(store, augment, is_said):
    """Where augmentation was asked for, that is; the default goes without saying."""
    said = []
    asked = options(head="linear", epochs=1, augment=augment)
    train_loff(store.root, asked, context=Context(Notices(said)))
    assert any("not augmented" in text for text in said) == is_said


def test_a_finished_run_does_nothing(store):
    train_loff(store.root, options())
    before = {path: path.read_bytes() for path in (store.root / "heads").rglob("*.*")}
    said = []
    train_loff(store.root, options(), context=Context(Notices(said)))
    assert any("nothing to do: 3 epochs" in text for text in said)
    assert {path: path.read_bytes() for path in (store.root / "heads").rglob("*.*")} == before


def test_torchs_global_random_state_is_neither_used_nor_changed(tmp_path, store):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    train_loff(store.root, options())
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    other = store_of(tmp_path / "other.fungi")
    train_loff(other.root, options())
    assert same(weights(store), weights(other))


@pytest.mark.parametrize("epochs", [2, 5])
def test_another_number_of_epochs_says_why_it_is_refused(store, epochs):
    """Of a head that is trained, and of one that was stopped; with --restart it is trained anew."""
    calls = iter(range(100))
    with pytest.raises(StoppedError):
        train_loff(store.root, options(), context=Context(stop=lambda: next(calls) >= 5))
    for _ in range(2):
        with pytest.raises(MismatchError, match="learning rate falls to zero") as caught:
            train_loff(store.root, options(epochs=epochs))
        assert (caught.value.expected, caught.value.found) == (
            "--epochs 3",
            f"--epochs {epochs}",
        )
        assert "--name" in caught.value.hint
        assert "--restart" in caught.value.hint
        train_loff(store.root, options())
    assert train_loff(store.root, options(epochs=epochs), restart=True).epochs == epochs


def test_test_rows_change_nothing(tmp_path, store):
    """Neither moments, training nor the choice of the epoch reads a test row."""
    train_loff(store.root, options())
    data = open_head_data(
        store, "patches", feature_set=None, pool=1, holdout=0.25, validation=0.2, seed=0
    )
    values, _ = patterns()
    values[data.split.test] = 100
    other = store_of(tmp_path / "other.fungi", values)
    train_loff(other.root, options())
    assert same(weights(store), weights(other))
    values[data.split.train[0]] = 50
    third = store_of(tmp_path / "third.fungi", values)
    train_loff(third.root, options())
    assert not same(weights(store), weights(third))


def test_the_cache_is_never_written(store):
    chunks = {
        path: path.read_bytes()
        for path in (store.root / "features.zarr").rglob("*")
        if path.is_file()
    }
    train_loff(store.root, options(cache="none", augment=Augmentation(brightness=0.5, cutmix=1.0)))
    assert all(path.read_bytes() == data for path, data in chunks.items())


def test_where_the_rows_are_kept_changes_nothing(tmp_path, store):
    other = store_of(tmp_path / "other.fungi")
    train_loff(store.root, options(cache="ram"))
    train_loff(other.root, options(cache="none"))
    assert same(weights(store), weights(other))


def test_augmentation_leaves_initial_weights_and_order_alone(tmp_path, store):
    """A run with a learning rate of almost nothing shows what it started from."""
    tiny = {"epochs": 1, "lr": 1e-30, "weight_decay": 0.0}
    train_loff(store.root, options(**tiny))
    train_loff(
        store.root, options(**tiny, name="plain", augment=Augmentation(kind="none", noise=0.0))
    )
    one, other = weights(store), weights(store, "plain")
    assert all(torch.allclose(one[key], other[key], atol=1e-20, rtol=0) for key in one)


def test_moments_are_those_of_the_training_rows(store):
    data = open_head_data(
        store, "patches", feature_set=None, pool=2, holdout=0.25, validation=0.2, seed=0
    )
    loader = PatchLoader(data.array, Sequential(data.split.train), 7, cache="none")
    mean, deviation = moments(loader, 2)
    values = patterns()[0][data.split.train].astype(np.float64)
    cells = values.reshape(-1, 2, 2, 2, 2, CHANNELS).mean(axis=(2, 4)).reshape(-1, CHANNELS)
    np.testing.assert_allclose(mean, cells.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(deviation, cells.std(axis=0), atol=1e-6)


def test_pooling_shrinks_the_grid(store):
    result = train_loff(store.root, options(pool=2, epochs=1))
    assert result.head["grid"] == [2, 2]


def test_training_stops_early_and_keeps_the_best(store):
    result = train_loff(store.root, options(epochs=30, patience=2, lr=1e-30))
    assert result.epochs == 3
    assert result.best_epoch == 1


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(store):
    with pytest.raises(FungiError, match="not finite") as caught:
        train_loff(store.root, options(lr=1e30, weight_decay=0.0, warmup=0.0))
    assert str(caught.value.where).startswith("rows ")
    progress = head_run(store, "set", "h").progress()
    if progress.file:
        assert all(torch.isfinite(tensor).all() for tensor in weights(store).values())


@pytest.mark.parametrize(
    "change", [{"lr": 2e-3}, {"epochs": 4, "lr": 2e-3}, {"seed": 1}, {"pool": 2}]
)
def test_other_settings_under_one_name_are_refused(store, change):
    train_loff(store.root, options(epochs=1))
    with pytest.raises(MismatchError, match="other settings"):
        train_loff(store.root, options(**({"epochs": 1} | change)))
    train_loff(store.root, options(**({"epochs": 1} | change)), restart=True)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"pool": 3}, "cannot be pooled"),
        ({"feature_set": "other"}, "no feature set"),
    ],
)
def test_what_cannot_be_trained_is_refused(store, change, what):
    with pytest.raises(UsageError, match=what):
        train_loff(store.root, options(**change))
    assert not (store.root / "heads").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"head": "resnet"},
        {"epochs": 0},
        {"lr": 0.0},
        {"name": "../h"},
        {"pool": 0},
        {"validation": 1.0},
        {"metric": "loss"},
        {"patience": 0},
    ],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(UsageError):
        options(**change)


def test_a_store_without_patches_says_which_command_makes_them(tmp_path):
    values, labels = patterns()
    store = make_store(tmp_path / "e.fungi", {"embeddings": values.mean(axis=(1, 2))}, labels)
    with pytest.raises(UsageError) as caught:
        train_loff(store.root, options())
    assert "--features patches" in caught.value.hint


def test_a_class_without_training_rows_is_refused(tmp_path):
    values, labels = patterns()
    splits = ["train" if row % CLASSES else "test" for row in range(ROWS)]
    store = store_of(tmp_path / "s.fungi", values, labels, splits)
    with pytest.raises(UsageError, match="no training rows") as caught:
        train_loff(store.root, options(holdout=None))
    assert "class 0" in str(caught.value.found)


def test_rows_that_could_not_be_read_are_left_out(tmp_path):
    values, labels = patterns()
    values[[3, 10]] = np.nan
    store = store_of(tmp_path / "s.fungi", values, labels)
    assert train_loff(store.root, options(epochs=1)).excluded["rows without usable features"] == 2


def test_the_kept_weights_are_those_of_the_best_epoch(store):
    result = train_loff(store.root, options(epochs=6))
    run = head_run(store, "set", "h")
    history = [line["validation"]["accuracy"] for line in run.progress().history]
    assert result.best_epoch == int(np.argmax(history)) + 1
    files = list((store.root / "heads/set/h").glob("*.safetensors"))
    assert len(files) == 1
    assert all(name.startswith("best.") for name in load_file(files[0]))


def test_a_grown_store_is_other_rows(tmp_path, store):
    train_loff(store.root, options(epochs=1))
    more = np.concatenate([patterns()[0], patterns(1)[0]])
    store_of(store.root, more, patterns()[1] * 2)
    with pytest.raises(MismatchError, match="other settings"):
        train_loff(Store.open(store.root).root, options(epochs=1))


def test_what_killed_runs_left_goes_with_the_next_one(store):
    """Weights that no state names, and files half written; a run with nothing to do is enough."""
    train_loff(store.root, options())
    path = head_run(store, "set", "h").folder.directory()
    before = sorted(path.iterdir())
    (path / "state-0001-000002.safetensors").write_bytes(b"of a kill before they were forgotten")
    (path / f".state-0002-000001.safetensors.{'0' * 32}.partial").write_bytes(b"half")
    train_loff(store.root, options())
    assert sorted(path.iterdir()) == before


def test_a_restart_killed_half_way_is_not_taken_for_a_run(store, monkeypatch):
    """State and settings go first: whatever of a deleted head is left, the next run begins anew."""
    train_loff(store.root, options(seed=1))
    with monkeypatch.context() as monkey:
        monkey.setattr("shutil.rmtree", lambda path: (path / "log.jsonl").unlink())
        head_run(store, "set", "h").remove()
    said = []
    train_loff(store.root, options(), context=Context(Notices(said)))
    assert not [text for text in said if "resuming" in text or "nothing to do" in text]


def test_settings_that_came_later_are_frozen_only_where_they_are_used(store):
    """So a head that was begun before there were such settings goes on, and is not another."""
    train_loff(store.root, options(epochs=1))
    config = head_run(store, "set", "h").config()
    assert set(config["options"]["augment"]) == {
        *("kind", "strength", "interpolation", "padding", "noise", "brightness", "mixup", "cutmix"),
    }
    assert not {"class_token", "loss", "ema"} & set(config["options"])
    assert "embedding_dim" not in config["head"]
    used = {"class_token": True, "loss": "weighted", "ema": 0.5}
    train_loff(store.root, options(epochs=1, name="used", **used))
    frozen = head_run(store, "set", "used").config()
    assert used.items() <= frozen["options"].items()
    assert frozen["head"]["embedding_dim"] == CHANNELS
