"""The class token beside the patches: in a head, its loader, its training and its predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_loader import make_array
from test_train import CHANNELS, CLASSES, ROWS, SIDE, options, same, weights
from torch.nn import functional

from feature_world import make_store
from fungistore.errors import MismatchError, StoppedError, UsageError
from fungistore.loff.augment import augment, augment_embeddings, draw
from fungistore.loff.data import open_head_data
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.head import HeadSpec
from fungistore.loff.head_folder import head_run
from fungistore.loff.heads import build_head
from fungistore.loff.loader import PatchLoader
from fungistore.loff.options import Augmentation, PredictOptions, TrainOptions
from fungistore.loff.predict import predict_rows
from fungistore.loff.stored import open_head
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context
from fungistore.store.store import Store
from fungistore.training.order import Shuffled
from fungistore.verification.verify import verify_store

pytestmark = pytest.mark.usefixtures("small_heads")
WIDTH = 5  # of an embedding: not that of a patch
SPEC = HeadSpec("vit-xs", CHANNELS, CLASSES, (SIDE, SIDE), embedding_dim=WIDTH, drop_path=0.0)
KINDS = ["vit-xs", "attn-pool", "stat-pool"]


def world_of(root, change=None):
    """Patches that say nothing of the class, and embeddings that do, on another scale."""
    random = np.random.default_rng(0)
    numbers = np.arange(ROWS) % CLASSES
    patches = random.normal(size=(ROWS, SIDE, SIDE, CHANNELS)).astype(np.float16)
    embeddings = random.normal(size=(ROWS, WIDTH)) + 9 * np.eye(CLASSES, WIDTH)[numbers]
    embeddings = (40 + 20 * embeddings).astype(np.float32)
    if change is not None:
        change(patches, embeddings)
    labels = [f"class {number}" for number in numbers]
    return make_store(root, {"patches": patches, "embeddings": embeddings}, labels, unit_rows=32)


@pytest.fixture
def store(tmp_path):
    return world_of(tmp_path / "s.fungi")


def features(count=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, SIDE, SIDE, CHANNELS, generator=random)
    return tokens, torch.randn(count, WIDTH, generator=random)


def layer_norm(values, module):
    return functional.layer_norm(values, values.shape[-1:], module.weight, module.bias, module.eps)


@pytest.mark.parametrize("kind", KINDS[:2])
@torch.no_grad()
def test_the_embedding_is_projected_and_added_to_what_the_classifier_reads(kind):
    """Written out: Linear and LayerNorm of the standardised embedding, then one addition."""
    head = build_head(replace(SPEC, kind=kind), seed=1).eval()
    tokens, embeddings = features()
    mean, deviation = torch.arange(5.0), torch.arange(1.0, 6.0)
    head.standardise_embedding.set_moments(mean, deviation)
    linear, norm = head.embed_sample
    added = ((embeddings - mean) / deviation) @ linear.weight.T + linear.bias
    added = layer_norm(added, norm)[:, None]
    cells = layer_norm(head.embed[0](tokens.flatten(1, 2)), head.embed[1])
    if kind == "vit-xs":
        first = head.cls_token + added
        pooled = head.blocks(torch.cat([first, cells], dim=1) + head.pos_embed)[:, 0]
    else:
        pooled = head.pool(cells + head.pos_embed) + added[:, 0]
    expected = layer_norm(pooled, head.norm) @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head(tokens, embeddings), expected, atol=1e-5, rtol=1e-5)


def test_an_embedding_too_few_or_too_many_is_refused():
    """A head says what it lacks rather than leave it out."""
    tokens, embeddings = features()
    with pytest.raises(ValueError, match="takes an embedding"):
        build_head(SPEC, seed=0)(tokens)
    with pytest.raises(ValueError, match="takes no embedding"):
        build_head(replace(SPEC, embedding_dim=None), seed=0)(tokens, embeddings)
    with pytest.raises(UsageError, match="embedding_dim"):
        HeadSpec("linear", CHANNELS, CLASSES, embedding_dim=WIDTH)
    with pytest.raises(UsageError, match="class-token"):
        options(head="linear", class_token=True)


@pytest.mark.parametrize("kind", KINDS)
def test_without_it_a_head_is_as_it_was(kind):
    """Its configuration has no new key, and no parameter is another."""
    plain, joint = (
        build_head(replace(SPEC, kind=kind, embedding_dim=width), seed=3) for width in (None, WIDTH)
    )
    assert "embedding_dim" not in plain.spec.to_config()
    assert HeadSpec.from_config(joint.spec.to_config()) == joint.spec
    theirs = joint.state_dict()
    extra = theirs.keys() - plain.state_dict().keys()
    assert {name.partition(".")[0] for name in extra} == {"embed_sample", "standardise_embedding"}


@pytest.mark.parametrize("codecs", [("none", "zstd"), ("zstd", "none"), ("zstd", "zstd")])
@pytest.mark.parametrize("cache", ["none", "ram"])
def test_both_arrays_come_for_the_same_rows_whatever_their_layout(tmp_path, codecs, cache):
    """From any step on, with a short last batch."""
    patches = make_array(tmp_path / "p", codecs[0])
    others = make_array(tmp_path / "e", codecs[1], shape=(5,), unit_rows=20, dtype="float32")
    order = Shuffled(np.arange(0, 75, 2), 1)
    loader = PatchLoader(patches, order, 7, cache=cache, embeddings=others, window_bytes=4000)
    alone = PatchLoader(patches, order, 7, cache=cache, window_bytes=4000)
    for start in (0, 3, loader.steps):
        batches = list(loader.epoch(2, start))
        assert [b.rows.tolist() for b in batches] == [
            b.rows.tolist() for b in alone.epoch(2, start)
        ]
        for batch in batches:
            for values, array in ((batch.values, patches), (batch.embeddings, others)):
                np.testing.assert_array_equal(values, array.read(0, 75)[batch.rows])


def test_noise_and_mixing_are_of_the_embedding_too():
    """Mixed by the share of cells that a sample keeps, with noise of its own; nothing moves it."""
    tokens, embeddings = features(6)
    kinds = Augmentation(kind="rotate", noise=0.0, cutmix=1.0, mixup=0.5)
    drawn = draw(kinds, tuple(tokens.shape), seed=0, epoch=0, step=0)
    found = augment_embeddings(embeddings, drawn)
    _, targets = augment(tokens, torch.eye(6), drawn)
    torch.testing.assert_close(found, targets @ embeddings)  # a target says whose share it is
    assert not torch.equal(found, embeddings)
    many = torch.zeros(4000, WIDTH)
    drawn = draw(Augmentation(noise=0.3), (4000, 2, 2, 3), seed=0, epoch=0, step=0)
    noise = augment_embeddings(many, drawn)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert torch.equal(noise, augment_embeddings(many, drawn))
    drawn = draw(Augmentation(noise=0.0), (4000, 2, 2, 3), seed=0, epoch=0, step=0)
    assert torch.equal(augment_embeddings(many, drawn), many)


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_what_the_embeddings_alone_know(store, kind):
    """And its loss and its moments are of both, its test on rows that it has not seen."""
    settings = {"head": kind, "epochs": 6, "lr": 3e-3, "dropout": 0.0}
    plain = Augmentation(kind="none", noise=0.0)
    result = train_loff(store.root, options(**settings, augment=plain, class_token=True))
    assert result.validation["accuracy"] > 0.9
    assert set(result.fingerprints) == {"set/patches", "set/embeddings"}
    data = open_head_data(
        store, "patches", feature_set=None, pool=1, holdout=0.25, validation=0.2, seed=0
    )
    values = store.arrays("set")["embeddings"].read(0, ROWS)[data.split.train]
    kept = weights(store)
    np.testing.assert_allclose(
        kept["best.standardise_embedding.mean"], values.mean(axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(
        kept["best.standardise_embedding.deviation"], values.std(axis=0), rtol=1e-4
    )
    (score,) = evaluate_loff(store.root, LoffOptions(heads=("h",))).scores
    assert score.features == ("patches", "embeddings")
    assert score.metrics["accuracy"] > 0.9
    assert set(score.fingerprints) == set(score.contents) == set(result.fingerprints)
    said = predict_rows(store.root, data.split.test.tolist(), PredictOptions(head="h"))
    right = [one.label == f"class {one.row % CLASSES}" for one in said.predictions]
    assert np.mean(right) == pytest.approx(score.metrics["accuracy"])


def test_the_patches_alone_do_not_know_it(store):
    plain = Augmentation(kind="none", noise=0.0)
    settings = {"head": "stat-pool", "epochs": 6, "lr": 3e-3, "dropout": 0.0, "augment": plain}
    assert train_loff(store.root, options(**settings)).validation["accuracy"] < 0.7


def test_a_run_with_it_that_was_stopped_ends_with_the_same_weights(tmp_path, store):
    """Bit for bit, wherever the rows are kept."""
    asked = options(class_token=True, augment=Augmentation(mixup=0.5), epochs=2)
    other = world_of(tmp_path / "other.fungi")
    train_loff(other.root, replace(asked, cache="none"))
    calls = iter(range(100))
    with pytest.raises(StoppedError):
        train_loff(store.root, asked, context=Context(stop=lambda: next(calls) >= 6))
    train_loff(store.root, asked)
    assert same(weights(store), weights(other))


def test_rows_must_be_usable_in_both_and_test_rows_change_nothing(tmp_path, store):
    """A row whose embedding is NaN is left out; test rows' embeddings are not read."""
    asked = options(class_token=True, epochs=1)
    train_loff(store.root, asked)
    data = open_head_data(
        store, "patches", feature_set=None, pool=1, holdout=0.25, validation=0.2, seed=0
    )

    def spoil(patches, embeddings):
        embeddings[data.split.test] = 1e4

    other = world_of(tmp_path / "other.fungi", spoil)
    train_loff(other.root, asked)
    assert same(weights(store), weights(other))

    def lose(patches, embeddings):
        embeddings[[3, 10]] = np.nan
        patches[[10, 20]] = np.nan

    third = world_of(tmp_path / "third.fungi", lose)
    excluded = train_loff(third.root, asked).excluded
    assert excluded["rows without usable features"] == 3


def test_embeddings_that_were_made_anew_make_the_head_stale(tmp_path, store):
    """Its configuration names both arrays: other rows are noticed, other settings refused."""
    train_loff(store.root, options(class_token=True, epochs=1))
    config = head_run(store, "set", "h").config()
    assert set(config["inputs"]) == set(config["contents"]) == {"set/patches", "set/embeddings"}
    assert not open_head(store, "set", "h").is_stale
    array = store.arrays("set")["embeddings"]
    array.publish(0, array.read(0, 32) + 1, array.commit(0).ids, 0)
    assert open_head(Store.open(store.root), "set", "h").is_stale
    (finding,) = verify_store(store.root).findings
    assert finding.kind == "head-stale"
    assert "set/embeddings" in finding.found
    store.remove_arrays([array])
    with pytest.raises(MismatchError, match="other features"):
        open_head(Store.open(store.root), "set", "h")
    with pytest.raises(UsageError, match="no embeddings") as caught:
        train_loff(store.root, TrainOptions(class_token=True, name="n", holdout=0.25))
    assert "--features embeddings" in caught.value.hint
