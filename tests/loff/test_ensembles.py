"""Several heads, and several views of a feature map, are asked together."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fungi_cli.main import app
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from feature_world import make_store
from fungistore.errors import MismatchError, UsageError
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import Augmentation, PredictOptions, TrainOptions
from fungistore.loff.predict import predict_rows
from fungistore.loff.stored import head_rows, open_head
from fungistore.loff.train import train_loff
from fungistore.store.store import Store

ROWS, CLASSES = 48, 3
SEEDS = [f"s-{seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store of grades 9, 10 and 11: three seeds on one holdout, one on its own, and others."""
    random = np.random.default_rng(0)
    numbers = np.arange(ROWS) % CLASSES
    patches = random.normal(size=(ROWS, 2, 2, 6))
    patches[np.arange(ROWS), 0, 0, numbers] += 2
    blocks = {
        "patches": patches.astype(np.float16),
        "embeddings": patches.mean(axis=(1, 2)).astype(np.float16),
    }
    names = [f"{9 + number}" for number in numbers]
    store = make_store(tmp_path_factory.mktemp("many") / "s.fungi", blocks, names, unit_rows=16)
    for seed, name in enumerate(SEEDS):
        train_loff(store.root, settings(name, seed=seed, split_seed=0))
    train_loff(store.root, settings("own", seed=1))
    train_loff(store.root, settings("linear", head="linear"))
    return store.root


def settings(name, **changes):
    quick = {"head": "attn-pool", "epochs": 1, "batch_size": 16, "dtype": "float32"}
    return TrainOptions(**(quick | changes), name=name, augment=Augmentation(kind="none"))


def held_out(root, name="s-0"):
    store = Store.open(root)
    return head_rows(store, open_head(store, "set", name)).split.test


def said(root, rows, **options):
    result = predict_rows(root, rows.tolist(), PredictOptions(**options))
    return np.array([[*one.probabilities.values()] for one in result.predictions])


def test_seeds_share_the_rows_of_one_split_seed(root):
    """What is trained differs; without it, so do the rows, as ever."""
    first, second = (held_out(root, name) for name in SEEDS[:2])
    assert first.tolist() == second.tolist() != held_out(root, "own").tolist()
    assert not np.array_equal(said(root, first, head="s-0"), said(root, first, head="s-1"))
    with pytest.raises(MismatchError, match="other settings"):
        train_loff(root, settings("s-1", seed=1))
    train_loff(root, settings("own", seed=1, split_seed=None))  # the same as leaving it out


def test_an_ensemble_says_the_mean_of_what_its_heads_say(root):
    """And is scored by it; the mean of the scores comes first."""
    rows = held_out(root)
    each = [said(root, rows, head=name) for name in SEEDS]
    together = said(root, rows, head="s-*", ensemble=True)
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-7)
    done = evaluate_loff(root, LoffOptions(heads=("s-*",), ensemble=True))
    truth = Store.open(root).samples.labels()[rows]
    mean, ensemble = done.scores
    accuracies = [(one.argmax(axis=1) == truth).mean() for one in each]
    assert mean.metrics["accuracy"] == pytest.approx(np.mean(accuracies))
    assert mean.metrics["roc_auc_deviation"] >= 0
    assert ensemble.metrics["accuracy"] == (together.argmax(axis=1) == truth).mean()
    expected = roc_auc_score(truth, together / together.sum(1, keepdims=True), multi_class="ovr")
    assert ensemble.metrics["roc_auc"] == pytest.approx(expected)
    assert [score.protocol["heads"] for score in done.scores] == ["s-* (3)", "s-* (3), ensemble"]
    assert ensemble.spread.keys() == ensemble.metrics.keys()


def test_an_ensemble_of_one_is_that_head_bit_for_bit(root):
    rows = held_out(root)
    alone, together = (said(root, rows, head="s-1", ensemble=flag) for flag in (False, True))
    assert np.array_equal(alone, together)
    one, other = evaluate_loff(root, LoffOptions(heads=("s-1",), ensemble=True)).scores
    assert one.metrics == other.metrics


def test_heads_of_several_kinds_are_an_ensemble_and_have_no_mean_score(root):
    rows = held_out(root)
    pattern = "[sl]*[0r]"  # s-0 and linear
    expected = np.mean([said(root, rows, head=name) for name in ("s-0", "linear")], axis=0)
    np.testing.assert_allclose(said(root, rows, head=pattern, ensemble=True), expected, atol=1e-7)
    (score,) = evaluate_loff(root, LoffOptions(heads=(pattern,), ensemble=True)).scores
    assert set(score.features) == {"patches", "embeddings"}
    assert len(score.fingerprints) == 2


def test_seeds_with_rows_of_their_own_are_no_ensemble(root):
    """One may have learnt what another is tested on; the error names the seeds and the way out."""
    with pytest.raises(UsageError, match="other test rows") as caught:
        evaluate_loff(root, LoffOptions(heads=("*[0n]",), ensemble=True))
    assert "s-0: 0" in str(caught.value) or "own: 1" in str(caught.value)
    assert "--split-seed" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("tta", "flips"),
    [
        (("hflip",), [(), (2,)]),
        (("vflip",), [(), (1,)]),
        (("hflip", "vflip"), [(), (2,), (1,)]),
        (("flips",), [(), (2,), (1,), (1, 2)]),
        (("flips", "hflip"), [(), (2,), (1,), (1, 2)]),
    ],
)
def test_flips_are_averaged_over(root, tta, flips):
    """The oracle flips the stored tensors by hand; nothing is resampled."""
    store, rows = Store.open(root), held_out(root)
    stored = open_head(store, "set", "s-0")
    tokens = torch.from_numpy(stored.array.read(0, ROWS)[rows])
    with torch.no_grad():
        views = [stored.head(tokens.flip(axes)).softmax(dim=1).numpy() for axes in flips]
    expected = np.mean(views, axis=0)
    np.testing.assert_allclose(said(root, rows, head="s-0", tta=tta), expected, atol=3e-7)
    assert not np.allclose(expected, views[0], atol=2e-6, rtol=0)
    done = evaluate_loff(root, LoffOptions(heads=("s-0",), tta=tta))
    truth = store.samples.labels()[rows]
    assert done.scores[0].metrics["accuracy"] == (expected.argmax(axis=1) == truth).mean()
    assert "hflip" in done.protocol["augmentation"] or tta != ("hflip",)


@pytest.mark.parametrize("ask", [evaluate_loff, lambda root, o: predict_rows(root, [0], o)])
def test_what_has_no_rows_and_columns_cannot_be_flipped(root, ask):
    kind = LoffOptions(heads=("linear",), tta=("hflip",))
    if ask is not evaluate_loff:
        kind = PredictOptions(head="linear", tta=("hflip",))
    with pytest.raises(UsageError, match="cannot be flipped") as caught:
        ask(root, kind)
    assert "--tta" in str(caught.value.hint)


@pytest.mark.parametrize("flag", ["--order", "--class-order"])
def test_a_kappa_is_asked_for_with_an_order_or_of_numbers(root, flag):
    """9, 10, 11 are numbers, in no alphabet's order; an order that is given counts instead."""
    heads = ["eval", "loff", str(root), "--head", "s-0", "--json"]
    run = CliRunner().invoke(app, [*heads, "--kappa"])
    assert "9 < 10 < 11" in run.stderr
    found = json.loads(run.stdout)["metrics"]["quadratic_kappa"]
    asked = json.loads(CliRunner().invoke(app, [*heads, flag, "10,9,11"]).stdout)
    assert asked["metrics"]["quadratic_kappa"] != found
    low, high = asked["spread"]["quadratic_kappa"]
    assert low <= asked["metrics"]["quadratic_kappa"] <= high
    assert "quadratic_kappa" not in json.loads(CliRunner().invoke(app, heads).stdout)["metrics"]


def test_speed_and_memory_are_told(root):
    """Of training from its run, of heads as measured; of a backbone that is not known, nothing."""
    run = CliRunner().invoke(app, ["eval", "loff", str(root), "--head", "s-*", "--json"])
    (speed,) = json.loads(run.stdout)["speed"]
    assert speed["training"]["device"] == "cpu"
    assert speed["training"]["images_per_second"] > 0
    assert speed["training"]["peak_rss_bytes"] > 1e7
    assert speed["training"]["peak_gpu_bytes"] is None
    assert speed["inference"]["head"] > 0
    assert speed["inference"]["backbone_and_head"] is None
    for seed in range(3):
        (root / f"heads/set/s-{seed}/speed.json").unlink()
    table = CliRunner().invoke(app, ["eval", "loff", str(root), "--head", "s-*"]).stdout
    header, row = table.splitlines()[:2]
    assert header.split("  ")[0] == "speed of"
    assert row.split()[-5:].count("-") == 4  # training, backbone + head, and both memories
    with pytest.raises(UsageError, match="not known"):  # nothing was extracted here
        evaluate_loff(root, LoffOptions(heads=("s-0",), time_backbone=2))
