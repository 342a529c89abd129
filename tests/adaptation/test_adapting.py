"""A backbone trains on images, resumes to the same weights, and never sees test rows."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from adapted_world import write_set
from feature_world import Notices
from fungistore.adaptation.folder import adaptation_run
from fungistore.adaptation.model import AdaptedModel, parameter_groups
from fungistore.adaptation.options import AdaptOptions, ImageAugmentation
from fungistore.adaptation.stage import adapt
from fungistore.backbones.adapters.adaptation import read_adaptation, read_seen
from fungistore.backbones.adapters.vpt import VPT
from fungistore.backbones.families import load_backbone
from fungistore.errors import MismatchError, StoppedError, UsageError
from fungistore.evaluation.task import labelled_rows
from fungistore.fingerprint import hash_ids
from fungistore.machine.context import Context
from fungistore.store.coverage import Coverage
from fungistore.store.store import Store
from fungistore.training.checkpoint import load_tensors
from tiny_world import TINY

PLAIN = ImageAugmentation(min_scale=1.0)
VARIED = ImageAugmentation(color_jitter=0.3, auto_augment="rand")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "photos")


@pytest.fixture(scope="module")
def options(tiny_weights):
    return AdaptOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=32,
        method="vpt",
        settings={"prompts": 2, "dropout": 0.2},
        name="a",
        epochs=2,
        batch_size=4,
        lr=1e-3,
        holdout=0.25,
        dtype="float32",
        augment=VARIED,
        workers=2,
    )


@pytest.fixture(scope="module")
def whole(photos, options, tmp_path_factory):
    """A store with an adaptation that nothing has interrupted."""
    store = tmp_path_factory.mktemp("whole") / "s.fungi"
    adapt(photos, store, options)
    return store


@pytest.fixture
def copied(photos, tmp_path):
    """The same images, to be changed."""
    return Path(copytree(photos, tmp_path / "photos"))


def run_of(store):
    return adaptation_run(Store.open(store), "a")


def weights(store):
    return load_tensors(run_of(store), run_of(store).progress())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def stopped_after(steps, said=None):
    calls = iter(range(10_000))
    return Context(Notices([] if said is None else said), stop=lambda: next(calls) >= steps)


def split_of(store, photos):
    """Rows to test on, by the paths of their files."""
    opened = Store.open(store)
    coverage = Coverage(*(np.ones(len(opened.samples), bool), 0, 0), np.zeros(16, bool))
    rows = labelled_rows(opened, coverage, holdout=0.25, seed=0)
    return {
        name: [photos / row["uri"] for row in opened.samples.take(getattr(rows.split, name))]
        for name in ("train", "test")
    }


def test_a_separable_set_is_learnt(tmp_path, photos, options):
    """The loss of the training falls, and rows that it was not trained on are told apart."""
    more = {"epochs": 6, "lr": 5e-3, "layer_decay": 1.0}
    plain = replace(options, method="full", settings={}, augment=PLAIN, **more)
    done = adapt(photos, tmp_path / "s.fungi", plain)
    history = run_of(tmp_path / "s.fungi").progress().history
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert done.validation["accuracy"] == 1.0
    assert (done.n_train, done.n_validation, done.epochs, done.failed) == (10, 2, 6, 0)
    assert done.trained == sum(
        tensor.numel() for name, tensor in weights(tmp_path / "s.fungi").items() if "best." in name
    )


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path, photos, options, whole):
    """Bit for bit, whatever the number of threads that decode, and with activations made twice."""
    other = tmp_path / "other.fungi"
    with pytest.raises(StoppedError):
        adapt(photos, other, options, context=stopped_after(5))
    assert not run_of(other).progress().done
    said = []
    again = replace(options, workers=1, gradient_checkpointing=True)
    adapt(photos, other, again, context=Context(Notices(said)))
    assert any("resuming" in text for text in said)
    assert same(weights(whole), weights(other))
    assert run_of(other).progress().history == run_of(whole).progress().history


def test_a_finished_run_does_nothing(photos, options, whole):
    before = {path: path.read_bytes() for path in (whole / "adaptations").rglob("*.*")}
    said = []
    adapt(photos, whole, options, context=Context(Notices(said)))
    assert any("nothing to do: 2 epochs" in text for text in said)
    assert {path: path.read_bytes() for path in (whole / "adaptations").rglob("*.*")} == before


def test_a_rate_that_nobody_says_is_the_runs_own(photos, options, whole):
    """Which is that of the method as it was when the run began."""
    assert adapt(photos, whole, replace(options, lr=None)) == adapt(photos, whole, options)
    assert run_of(whole).config()["options"]["lr"] == options.lr != VPT.learning_rate


def test_test_rows_are_not_read(tmp_path, copied, options, whole):
    """Files of nonsense in their place change no bit; one in place of a training image does."""
    for path in split_of(whole, copied)["test"]:
        path.write_text("nonsense")
    done = adapt(copied, tmp_path / "s.fungi", options)
    assert done.failed == 0
    assert same(weights(whole), weights(tmp_path / "s.fungi"))


def test_an_image_that_cannot_be_read_is_left_out(tmp_path, copied, options, whole):
    """The others are trained on; a run that goes on leaves out the same."""
    broken = split_of(whole, copied)["train"][0]
    broken.write_text("nonsense")
    for context in (stopped_after(2), Context(Notices(said := []))):
        with suppress(StoppedError):
            done = adapt(copied, tmp_path / "s.fungi", replace(options, epochs=1), context=context)
    assert "1 image cannot be read, and left out" in said
    assert (done.failed, done.n_train + done.n_validation) == (1, 11)
    assert done.excluded["rows without usable features"] == 1


def test_what_an_adaptation_keeps(photos, whole):
    """Only what was trained, which rows it saw, and what they were."""
    found = read_adaptation(whole / "adaptations/a")
    assert set(found.classifier) == {"weight", "bias"}
    assert sorted(found.tensors) == [f"blocks.{n}.prompts.tokens" for n in range(6)]
    assert found.classes == ("blue", "red")
    split = split_of(whole, photos)
    ids = [path.relative_to(photos).as_posix() for path in split["train"]]
    assert set(found.seen) == set(hash_ids(ids).tolist())


def test_other_settings_are_refused_field_by_field(photos, options, whole):
    with pytest.raises(MismatchError, match="other settings") as caught:
        adapt(photos, whole, replace(options, settings={"prompts": 3}, batch_size=5))
    assert "adapter.settings.prompts: stored 2, asked 3" in str(caught.value.found)
    assert "options.batch_size: stored 4, asked 5" in str(caught.value.found)
    with pytest.raises(MismatchError, match="learning rate falls to zero"):
        adapt(photos, whole, replace(options, epochs=3))


def test_a_restart_that_was_cut_short_begins_anew(tmp_path, photos, options, whole, monkeypatch):
    """Whatever of the old run is left when the power fails between two of its files."""
    for removed in (1, 4):
        store = Path(copytree(whole, tmp_path / f"{removed}.fungi"))
        folder = run_of(store).folder
        left = iter(range(removed))

        def remove(place, name="", left=left):
            for key in [name] if name else sorted(place.list().files, reverse=True):
                if next(left, None) is None:
                    raise OSError("the power is gone")
                place.backend.remove(place.key_of(key))

        with monkeypatch.context() as patch, suppress(OSError):
            patch.setattr(type(folder), "remove", remove)
            run_of(store).remove()
        assert folder.list().files
        with pytest.raises(StoppedError):
            adapt(photos, store, options, context=stopped_after(3))
        assert run_of(store).config()["rows"] == run_of(whole).config()["rows"]
        read_seen(folder, run_of(store).config())


def test_an_image_that_changes_ends_a_run(tmp_path, copied, options, whole):
    """Its bytes are compared with those that the run began with; --restart begins anew."""
    store = tmp_path / "s.fungi"
    with pytest.raises(StoppedError):
        adapt(copied, store, options, context=stopped_after(4))
    split = split_of(whole, copied)["train"]
    split[0].write_bytes(split[1].read_bytes())
    with pytest.raises(MismatchError, match="has changed") as caught:
        adapt(copied, store, options)
    assert str(split[0]) in str(caught.value.where)
    assert adapt(copied, store, replace(options, epochs=1), restart=True).epochs == 1


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "text:folder"}, "models of this family are not adapted"),
        ({"method": "vtp"}, "unknown adapter"),
        ({"settings": ["ssf.scale=1"]}, "a setting of another method"),
        ({"settings": ["vpt.prompts"]}, "malformed setting"),
        ({"settings": {"propmts": 1}}, "unknown setting"),
        ({"metric": "roc_auc", "order": ("red", "green")}, "the order is not of these classes"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, photos, options, changes, what):
    with pytest.raises(UsageError, match=what):
        adapt(photos, tmp_path / "s.fungi", replace(options, **changes))
    assert not (tmp_path / "s.fungi/adaptations").exists()


def test_losses_and_draws_for_classes_of_unequal_sizes(tmp_path, photos, options):
    """Each gives weights of its own where a class has fewer rows."""
    images = Path(copytree(photos, tmp_path / "photos"))
    for path in sorted((images / "red").iterdir())[4:]:
        path.unlink()
    found = []
    for number, changes in enumerate([{}, {"loss": "weighted"}, {"balanced": True}]):
        adapt(images, store := tmp_path / f"{number}.fungi", replace(options, epochs=1, **changes))
        found.append(weights(store))
    assert not any(same(one, other) for one, other in combinations(found, 2))


def test_rates_fall_with_depth_and_only_matrices_decay(tiny_weights, options):
    """Of full: each block has its part of the next one's rate, the classifier the whole."""
    full = replace(options, method="full", settings={}, layer_decay=0.5)
    encoder = load_backbone(TINY, weights=tiny_weights, image_size=32)
    model = AdaptedModel(encoder, full.adapter(), 2, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates, decays = {}, {}
    for group in parameter_groups(model, full):
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["lr_scale"]
            decays[names[id(parameter)]] = group["weight_decay"]
    assert len(rates) == len(names)
    assert [rates[f"backbone.blocks.{n}.mlp.fc1.weight"] for n in (5, 4, 0)] == [0.5, 0.25, 2**-6]
    assert (rates["classifier.weight"], rates["backbone.pos_embed"]) == (1.0, 2**-7)
    assert decays["backbone.blocks.0.attn.qkv.weight"] == decays["classifier.weight"] == 0.05
    free = ("backbone.pos_embed", "backbone.norm.weight", "classifier.bias")
    assert [decays[name] for name in free] == [0, 0, 0]


def test_frozen_batch_norms_keep_their_statistics():
    """Of a linear classifier on a convolutional network; a batch norm that is trained moves on.

    Nor does the frozen network drop layers.
    """
    for method in ("linear", "full"):
        options = AdaptOptions(model="test_resnet", method=method)
        network = timm.create_model("test_resnet", num_classes=0, drop_path_rate=0.9)
        encoder = SimpleNamespace(module=network, embedding_dim=network.num_features)
        model = AdaptedModel(encoder, options.adapter(), 2, 0).train()
        before = network.bn1.running_mean.clone()
        model(torch.randn(2, 3, 64, 64), bfloat16=False)
        assert torch.equal(network.bn1.running_mean, before) == (method == "linear")
        assert ("backbone.bn1.running_mean" in model.state()) == (method == "full")
        assert any(module.training for module in network.modules()) == (method == "full")


def test_batch_norms_are_not_computed_twice(tmp_path, photos, options):
    """They would count each batch twice: gradient checkpointing is refused, and never chosen."""
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    given = {"model": "test_resnet", "weights": str(tmp_path / "w.safetensors"), "epochs": 1}
    full = replace(options, **given, method="full", settings={}, image_size=64)
    with pytest.raises(UsageError, match="cannot compute activations twice") as caught:
        adapt(photos, tmp_path / "s.fungi", replace(full, gradient_checkpointing=True))
    assert "batch norms" in str(caught.value.expected)
    with pytest.raises(UsageError, match="cannot be trained on one image") as caught:
        adapt(photos, tmp_path / "o.fungi", replace(full, image_size=32, batch_size=3))
    assert str(caught.value.found) == "10 images in batches of 3"
