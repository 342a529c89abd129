"""What each setting does to training, against training written out: NumPy, or an epoch by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from test_train import CHANNELS, CLASSES, ROWS, options, patterns, store_of, weights
from torch.nn import functional

from feature_world import make_store
from fungistore.loff.augment import augment, draw
from fungistore.loff.data import open_head_data
from fungistore.loff.head_folder import head_run
from fungistore.loff.heads import HeadSpec, build_head
from fungistore.loff.options import Augmentation
from fungistore.loff.train import train_loff
from fungistore.matrices.cells import pooled
from fungistore.training.order import Shuffled, Weighted, balanced_weights

EPOCHS, BATCH, RATE, DECAY, WARMUP = 6, 16, 0.05, 0.6, 0.25
PLAIN = Augmentation(kind="none", noise=0.0)


def noisy_vectors():
    """Vectors that say little of their unequal classes: many epochs are not better than others."""
    random = np.random.default_rng(5)
    numbers = np.sort(random.choice(3, ROWS, p=[0.6, 0.25, 0.15]))
    vectors = random.normal(size=(ROWS, CHANNELS)) + 0.5 * np.eye(CHANNELS)[numbers]
    vectors[::5] *= 9
    return vectors.astype(np.float32), [f"class {number}" for number in numbers]


class LinearTraining:
    """Softmax regression by AdamW in float64: the rules of the paper's recipe, written out."""

    def __init__(self, head, steps, smoothing):
        self.weight = head.classifier.weight.detach().double().numpy().copy()
        self.bias = head.classifier.bias.detach().double().numpy().copy()
        self.steps, self.smoothing, self.step = steps, smoothing, 0
        self.moments = [np.zeros((2, *one.shape)) for one in (self.weight, self.bias)]
        self.norms = []

    def rate(self):
        warm = round(WARMUP * self.steps)
        if self.step < warm:
            return RATE * (self.step + 1) / warm
        part = (self.step - warm) / (self.steps - warm)
        return RATE * (1 + math.cos(math.pi * part)) / 2

    def take(self, vectors, labels):
        """One step; returns the loss before it."""
        targets = np.eye(CLASSES)[labels] * (1 - self.smoothing) + self.smoothing / CLASSES
        logits = vectors @ self.weight.T + self.bias
        loss = -(targets * log_softmax(logits, axis=1)).sum(axis=1).mean()
        error = (softmax(logits, axis=1) - targets) / len(labels)
        gradients = [error.T @ vectors, error.sum(axis=0)]
        norm = math.sqrt(sum((one**2).sum() for one in gradients))
        self.norms.append(norm)
        rate = self.rate()
        self.step += 1
        parameters = zip(
            (self.weight, self.bias), gradients, self.moments, (DECAY, 0.0), strict=True
        )
        for value, gradient, (first, second), decay in parameters:
            gradient = gradient * min(1, 1 / norm)
            first += (1 - 0.9) * (gradient - first)
            second += (1 - 0.999) * (gradient**2 - second)
            value *= 1 - rate * decay
            change = (first / (1 - 0.9**self.step)) / (
                np.sqrt(second / (1 - 0.999**self.step)) + 1e-8
            )
            value -= rate * change
        return loss


@pytest.mark.parametrize(
    ("balanced", "smoothing", "standardise", "ema"),
    [
        (False, 0.0, True, 0.0),
        (True, 0.0, True, 0.0),
        (False, 0.3, False, 0.5),
        (True, 0.2, True, 0.99),
    ],
)
def test_a_linear_head_trains_as_written_out_in_numpy(
    tmp_path, balanced, smoothing, standardise, ema
):
    """Order, standardising, warm-up, cosine, smoothing, decay, clipping, and the average of all
    weights so far; the best epoch's are kept, and the validation is of these."""
    vectors, labels = noisy_vectors()
    store = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels, unit_rows=32)
    result = train_loff(
        store.root,
        options(
            head="linear",
            epochs=EPOCHS,
            batch_size=BATCH,
            lr=RATE,
            weight_decay=DECAY,
            warmup=WARMUP,
            dropout=0.0,
            balanced=balanced,
            label_smoothing=smoothing,
            standardise=standardise,
            ema=ema,
        ),
    )
    data = rows_of(store, "embeddings")
    train = data.split.train
    order = Shuffled(train, 0)
    if balanced:
        order = Weighted(train, balanced_weights(data.labels[train].astype(np.int64)), 0)
    if standardise:
        vectors = (vectors - vectors[train].mean(axis=0)) / vectors[train].std(axis=0)
    steps = math.ceil(len(train) / BATCH)
    spec = HeadSpec("linear", CHANNELS, CLASSES)
    by_hand = LinearTraining(build_head(spec, seed=0), EPOCHS * steps, smoothing)
    kept = []
    averages = [by_hand.weight.copy(), by_hand.bias.copy()]
    for epoch in range(EPOCHS):
        drawn, loss = order.draw(epoch), 0.0
        for start in range(0, len(train), BATCH):
            rows = drawn[start : start + BATCH]
            loss += len(rows) * by_hand.take(vectors[rows], data.labels[rows])
            decay = min(ema, by_hand.step / (9 + by_hand.step))  # steps are counted from 1 here
            for average, live in zip(averages, (by_hand.weight, by_hand.bias), strict=True):
                average[...] = decay * average + (1 - decay) * live
        kept.append((loss / len(train), averages[0].copy(), averages[1].copy()))
    history = head_run(store, "set", "h").progress().history
    assert min(by_hand.norms) < 1 < max(by_hand.norms) or standardise  # so some are clipped
    assert [line["loss"] for line in history] == pytest.approx([one[0] for one in kept], rel=1e-4)
    assert result.best_epoch < EPOCHS or ema == 0.99
    held = data.split.validation
    for line, (_, weight, bias) in zip(history, kept, strict=True):
        said = (vectors[held] @ weight.T + bias).argmax(axis=1)
        assert line["validation"]["accuracy"] == (said == data.labels[held]).mean()
    _, weight, bias = kept[result.best_epoch - 1]
    found = weights(store)
    np.testing.assert_allclose(found["best.classifier.weight"], weight, atol=2e-4)
    np.testing.assert_allclose(found["best.classifier.bias"], bias, atol=2e-4)


def rows_of(store, feature, pool=1):
    return open_head_data(
        store, feature, feature_set=None, pool=pool, holdout=0.25, validation=0.2, seed=0
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": PLAIN},
        {"augment": Augmentation(kind="none", noise=0.0, mixup=0.8)},
        {"augment": Augmentation(kind="none", noise=0.0, cutmix=1.0)},
        {"augment": Augmentation(noise=0.3, brightness=0.2, mixup=0.8, cutmix=1.0)},
        {"augment": Augmentation(noise=0.0, drop_tokens=0.6)},
        {"augment": Augmentation(noise=0.3, brightness=0.2, mixup=0.8, raw=True)},
        {"augment": PLAIN, "pool": 2},
        {"augment": PLAIN, "standardise": False, "seed": 3},
    ],
    ids=lambda changes: "-".join(map(str, changes)),
)
def test_the_loss_of_an_epoch_is_of_augmented_maps_and_their_mixed_labels(store, changes):
    """At a rate of almost nothing it is that of the initial weights; mixed labels by hand."""
    still = {"epochs": 1, "lr": 1e-30, "weight_decay": 0.0, "drop_path": 0.0, "dropout": 0.0}
    asked = options(head="attn-pool", **still, **changes)
    train_loff(store.root, asked)
    data = open_head_data(
        store,
        "patches",
        feature_set=None,
        pool=asked.pool,
        holdout=0.25,
        validation=0.2,
        seed=asked.seed,
    )
    train = data.split.train
    spec = HeadSpec("attn-pool", CHANNELS, CLASSES, data.grid, standardise=asked.standardise)
    head = build_head(spec, seed=asked.seed)
    maps = pooled(torch.from_numpy(patterns()[0]), asked.pool)
    if asked.standardise:
        cells = maps[train].double().flatten(0, 2)
        head.standardise.set_moments(cells.mean(dim=0), cells.std(dim=0, correction=0))
    total = 0.0
    rows_in_order = Shuffled(train, asked.seed).draw(0)
    for step, start in enumerate(range(0, len(train), asked.batch_size)):
        rows = rows_in_order[start : start + asked.batch_size]
        raw = asked.augment.raw
        tokens = maps[rows] if raw else head.standardise(maps[rows])
        targets = torch.eye(CLASSES)[data.labels[rows]]
        drawn = draw(asked.augment, tuple(tokens.shape), seed=asked.seed, epoch=0, step=step)
        if drawn.partners is not None:
            share = drawn.keeps.mean(dim=(1, 2))[:, None]
            mixed = share * targets + (1 - share) * targets[drawn.partners]
            assert not torch.equal(mixed, targets)
            targets = mixed
        tokens, _ = augment(tokens, torch.zeros(len(rows), CLASSES), drawn)
        tokens = head.standardise(tokens) if raw else tokens
        with torch.no_grad():
            chances = functional.log_softmax(head.classify(tokens, None, drawn.cells), dim=1)
        total += float(-(targets * chances).sum())
    (line,) = head_run(store, "set", "h").progress().history
    assert line["loss"] == pytest.approx(total / len(train), rel=1e-5)


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path / "s.fungi")


def two_noisy_classes(root):
    """Few rows of the second of two classes: what is best depends on the metric."""
    random = np.random.default_rng(6)
    numbers = (np.arange(ROWS) % 5 == 0).astype(int)
    vectors = random.normal(size=(ROWS, CHANNELS)) + 0.7 * numbers[:, None]
    labels = [f"class {number}" for number in numbers]
    return make_store(root, {"embeddings": vectors.astype(np.float32)}, labels)


def test_the_metric_chooses_the_epoch(tmp_path):
    """Each metric keeps the first epoch at which it is highest; they do not agree here."""
    store = two_noisy_classes(tmp_path / "s.fungi")
    chosen = {}
    for metric in ("accuracy", "mean_per_class_accuracy", "roc_auc", "quadratic_kappa"):
        changes = {"head": "linear", "epochs": 4, "lr": 0.5, "warmup": 0.0}
        result = train_loff(store.root, options(**changes, metric=metric, name=metric))
        history = head_run(store, "set", metric).progress().history
        values = [line["validation"][metric] for line in history]
        chosen[metric] = result.best_epoch
        assert result.best_epoch == 1 + int(np.argmax(values))
        assert result.validation == history[result.best_epoch - 1]["validation"]
    assert len(set(chosen.values())) > 1


@pytest.mark.parametrize("kind", ["attn-pool", "vit-xs"])
def test_decay_is_of_matrices_alone(store, kind):
    """After one step decay has taken rate x decay of each matrix, and nothing of all else."""
    one_step = {"epochs": 1, "batch_size": ROWS, "lr": 0.01, "warmup": 0.0, "augment": PLAIN}
    for name, decay in (("none", 0.0), ("some", 0.5)):
        asked = options(head=kind, name=name, weight_decay=decay, **one_step)
        train_loff(store.root, asked)
    spec = HeadSpec(kind, CHANNELS, CLASSES, (4, 4))
    head = build_head(spec, seed=0)
    without, decayed = weights(store, "none"), weights(store, "some")
    free = set()
    for name, start in head.named_parameters():
        taken = without[f"best.{name}"] - decayed[f"best.{name}"]
        if name in ("cls_token", "pos_embed") or start.ndim < 2:
            free.add(name)
            assert not taken.any(), name
        else:
            torch.testing.assert_close(taken, 0.01 * 0.5 * start.detach(), atol=1e-6, rtol=1e-3)
    assert any("norm" in name for name in free)
    assert any("bias" in name for name in free)


@pytest.mark.parametrize("loss", ["cross-entropy", "weighted", "balanced-softmax"])
def test_the_loss_is_of_the_sizes_of_the_training_classes(tmp_path, loss):
    """The first step's, from the initial weights: torch's with the training rows' counts."""
    vectors, labels = noisy_vectors()
    store = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)
    one_step = {"head": "linear", "epochs": 1, "batch_size": ROWS, "lr": 1e-30, "dropout": 0.0}
    train_loff(store.root, options(**one_step, loss=loss, standardise=False))
    data = rows_of(store, "embeddings")
    truth = torch.from_numpy(data.labels[data.split.train]).long()
    sizes = torch.bincount(truth).float()
    assert len(sizes.unique()) == CLASSES
    head = build_head(HeadSpec("linear", CHANNELS, CLASSES, standardise=False), seed=0)
    logits = head(torch.from_numpy(vectors[data.split.train])).detach()
    if loss == "balanced-softmax":
        logits = logits + sizes.log()
    weight = 1 / sizes if loss == "weighted" else None
    run = head_run(store, "set", "h")
    expected = float(functional.cross_entropy(logits, truth, weight))
    assert run.progress().history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert run.config()["options"].get("loss", "cross-entropy") == loss
    assert ("loss" in run.config()["options"]) == (loss != "cross-entropy")
