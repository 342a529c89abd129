"""Heads of tokens in sequence: those of a grid with the same tokens, without its places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feature_world import Notices, clustered, make_store
from fungistore.errors import UsageError
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import Augmentation, PredictOptions, TrainOptions
from fungistore.loff.predict import predict_rows
from fungistore.loff.stored import load_head
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store

ROWS, TOKENS, DIM = 40, 6, 8


def sequences() -> tuple[np.ndarray, list[str]]:
    """Two classes that differ in one token of six."""
    vectors, labels = clustered(ROWS, 2, DIM, noise=0.1)
    values = np.random.default_rng(3).normal(size=(ROWS, TOKENS, DIM)).astype(np.float16)
    values[:, 4] = vectors
    return values, labels


def store_of(root: Path, values: np.ndarray, **more: np.ndarray) -> Store:
    return make_store(root, {"patches": values, **more}, sequences()[1])


def options(head: str = "vit-xs", **settings: Any) -> TrainOptions:
    settings.setdefault("device", "cpu")
    settings.setdefault("epochs", 2)
    return TrainOptions(head=head, batch_size=8, holdout=0.25, **settings)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_heads")
@pytest.mark.parametrize("head", ["vit-xs", "attn-pool"])
def test_a_sequence_trains_as_a_grid_of_the_same_tokens(tmp_path: Path, head: str) -> None:
    """Noise and mixup, and no operation of space: the weights are the same, bit for bit."""
    values, _ = sequences()
    augment = Augmentation(kind="none", noise=0.2, mixup=0.3)
    weights = []
    for name, shaped in (("s", values), ("g", values.reshape(ROWS, 2, 3, DIM))):
        store = store_of(tmp_path / name, shaped)
        train_loff(store.root, options(head, name="h", epochs=1, augment=augment))
        weights.append(load_head(store.root, "h").head.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


@pytest.mark.usefixtures("small_heads")
def test_a_head_of_sequences_is_used_as_any_other(tmp_path: Path) -> None:
    """By default it has noise alone, which is said; then it is scored, asked and verified."""
    values, labels = sequences()
    store = store_of(tmp_path / "s.fungi", values)
    said: list[str] = []
    trained = train_loff(
        store.root, options(epochs=12, lr=3e-3), context=Context(reporter=Notices(said))
    )
    assert trained.name == "vit-xs-ta"
    assert "nothing is moved; noise of 0.1 is added" in "\n".join(said)
    assert trained.head["grid"] == [1, TOKENS]
    scored = evaluate_loff(store.root, LoffOptions(device="cpu"))
    assert scored.scores[0].metrics["accuracy"] == 1
    predicted = predict_rows(store.root, "0-9", PredictOptions(device="cpu")).predictions
    assert [one.label for one in predicted] == labels[:10]
    head = load_head(store.root).head  # of features as they are stored
    with torch.no_grad():
        classes = head(torch.from_numpy(values[:10])).argmax(dim=1).tolist()
    assert classes == [row % 2 for row in range(10)]
    assert not verify_store(store.root).findings


def test_what_needs_rows_and_columns_is_refused_for_a_sequence(tmp_path: Path) -> None:
    """Named operations, CutMix, pooling and weights of images; the hint names what does work."""
    store = store_of(tmp_path / "s.fungi", sequences()[0])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"augment": Augmentation(kind="hflip,rotate")}, r"(?s)--augment.*--grid"),
        ({"augment": Augmentation(cutmix=1.0)}, r"(?s)--cutmix.*--mixup"),
        ({"pool": 2}, r"(?s)2 x 2 cells.*a sequence of 6 tokens.*leave out --pool"),
        ({"init": "timm"}, r"(?s)--init timm.*--init random"),
    ]
    for settings, message in cases:
        with pytest.raises(UsageError, match=message):
            train_loff(store.root, options(**settings))
    assert not (store.root / "heads").exists()


def test_sequences_of_different_lengths_are_refused(tmp_path: Path) -> None:
    """Their padding would be trained on: the embedding is what a head can take."""
    values, _ = sequences()
    lengths = {"lengths/patches": np.arange(ROWS, dtype=np.float32) % TOKENS + 1}
    store = store_of(tmp_path / "s.fungi", values, **lengths)
    with pytest.raises(UsageError, match=r"(?s)same number of tokens.*--head linear"):
        train_loff(store.root, options())
