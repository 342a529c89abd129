"""A head is trained in pieces of its batches: what comes of it depends on no number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.layers import DropPath
from torch import nn

from feature_world import make_store
from fungistore.loff import pieces
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.head import Head, HeadSpec
from fungistore.loff.heads import build_head
from fungistore.loff.options import Augmentation, TrainOptions
from fungistore.loff.pieces import Inputs, PiecewiseHead
from fungistore.loff.train import train_loff
from fungistore.loff.transformer_head import TransformerHead
from fungistore.machine.context import QUIET
from fungistore.machine.cores import Cores
from fungistore.store.store import Store

pytestmark = pytest.mark.usefixtures("small_heads")
ROWS, SIDE, CHANNELS = 80, 8, 64
CELLS = 2 * SIDE**2  # of a piece
KINDS = ("vit-xs", "attn-pool", "stat-pool")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two maps each."""
    for kind in (Head, TransformerHead):
        monkeypatch.setattr(kind, "piece_cells", CELLS)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    random = np.random.default_rng(0)
    values = random.normal(size=(ROWS, SIDE, SIDE, CHANNELS)).astype(np.float16)
    blocks = {"patches": values, "embeddings": values.mean(axis=(1, 2)).astype(np.float16)}
    labels = [f"class {row % 3}" for row in range(ROWS)]
    return make_store(tmp_path_factory.mktemp("s") / "s.fungi", blocks, labels, unit_rows=32)


def trained(store: Store, count: int, **more: Any) -> tuple[dict[str, bytes], Any]:
    """Train with a number of threads; returns the weights' bytes, and what is said of them."""
    torch.set_num_threads(count)
    name = f"h{count}"
    options = TrainOptions(name=name, holdout=0.2, epochs=2, batch_size=15, **more)
    result = train_loff(store.root, options, restart=True, context=QUIET)
    scores = evaluate_loff(store.root, LoffOptions(heads=(name,)), context=QUIET)
    (file,) = (store.root / "heads/set" / name).glob("state-*.safetensors")
    bits = {key: one.numpy().tobytes() for key, one in load_file(file).items()}
    return bits, (result.validation, scores.to_json()["scores"][0]["metrics"])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", [*KINDS, "linear"])
def test_no_number_of_threads_changes_a_bit(store: Store, kind: Any) -> None:
    """Neither weights nor scores: with all that is drawn at random, and an average of weights."""
    more: dict[str, Any] = {"head": kind, "dropout": 0.2, "ema": 0.9}
    if kind != "linear":
        more["augment"] = Augmentation(kind="trivial", mixup=0.2, drop_tokens=0.25)
        more["class_token"] = True
    first, said = trained(store, 1, **more)
    assert first
    for count in (2, 3, 5):
        assert trained(store, count, **more) == (first, said), count


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_whole_batch(kind: str) -> None:
    """Of autograd on all of it at once, for a loss that no sum over pieces gives."""
    spec = HeadSpec(kind, CHANNELS, 3, (SIDE, SIDE), drop_path=0.0)
    head = build_head(spec, seed=0).train()
    random = torch.Generator().manual_seed(1)
    features = torch.randn(7, SIDE, SIDE, CHANNELS, generator=random)
    inputs = Inputs(features)
    assert [piece.stop - piece.start for piece in inputs.pieces(CELLS)] == [2, 2, 2, 1]

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return logits.square().sum().sqrt() / logits.abs().max()

    whole = loss(head.classify(features))
    parameters = dict(head.named_parameters())
    found = torch.autograd.grad(whole, [*parameters.values()], allow_unused=True)
    for count in (1, 3):
        head.zero_grad(set_to_none=True)
        piecewise = PiecewiseHead(head)
        value = piecewise.gradients(inputs, loss, [0] * 4, torch.float32, Cores(count))
        torch.testing.assert_close(value, whole)
        for (name, parameter), expected in zip(parameters.items(), found, strict=True):
            assert (parameter.grad is None) == (expected is None), name
            if expected is not None:
                torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=2e-5)


def test_pieces_drop_by_their_own_seeds() -> None:
    """The same seed gives the same gradients, another others; none the plain ones of no dropout."""
    head = build_head(HeadSpec("vit-xs", CHANNELS, 3, (SIDE, SIDE), dropout=0.3), seed=0).train()
    inputs = Inputs(torch.randn(4, SIDE, SIDE, CHANNELS))
    run = partial(PiecewiseHead(head).gradients, inputs, torch.sum, dtype=torch.float32)

    def gradient(seeds: list[int]) -> torch.Tensor:
        head.zero_grad(set_to_none=True)
        run(seeds=seeds, cores=Cores(2))
        assert head.embed[0].weight.grad is not None
        return head.embed[0].weight.grad.clone()

    first = gradient([1, 2])
    state = torch.random.get_rng_state()
    assert torch.equal(gradient([1, 2]), first)
    assert not torch.equal(gradient([1, 3]), first)
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing of the process's is drawn


def test_what_is_dropped_is_what_torch_and_timm_drop() -> None:
    """Numbers, or all of a sample; the rest is scaled so that the mean stays."""
    head = build_head(HeadSpec("vit-xs", 8, 3, (2, 2), drop_path=0.4, dropout=0.3), seed=0)
    twin = pieces._Twin(head)
    mine, theirs = (list(one.modules()) for one in (twin._head, head))
    assert [id(one) for one in twin._head.parameters()] == [id(one) for one in head.parameters()]
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if isinstance(a, pieces._Drop)]
    assert {type(b) for _, b in pairs} == {nn.Dropout, DropPath}
    for own, other in pairs:
        x = torch.ones(400, 5, 6)
        found = own(x)
        chance = other.p if isinstance(other, nn.Dropout) else other.drop_prob
        assert set(found.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - chance))}
        assert abs(float((found == 0).float().mean()) - chance) < 0.1
        is_whole = bool((found == found[:, :1, :1]).all())
        assert is_whole == isinstance(other, DropPath)


def test_a_batch_is_cut_by_its_own_size_alone() -> None:
    """Embeddings are one piece; huge maps are pieces of one sample."""
    assert len(Inputs(torch.zeros(60, 9)).pieces(1024)) == 1
    assert len(Inputs(torch.zeros(3, 99, 99, 2)).pieces(1024)) == 3
