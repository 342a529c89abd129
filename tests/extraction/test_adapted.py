"""`fungi extract --adapter`: features of an adapted encoder, and what a store remembers of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fungi_cli.main import app
from typer.testing import CliRunner

from adapted_world import DONE, tiny_encoder, write_adaptation
from fungistore.backbones.adapters.adaptation import ADAPTATIONS, adaptation_names, read_adaptation
from fungistore.backbones.adapters.adapter import Adapter
from fungistore.backbones.adapters.adaptformer import AdaptFormer
from fungistore.backbones.adapters.full import Full
from fungistore.backbones.adapters.linear import Linear
from fungistore.backbones.adapters.lora import LoRA
from fungistore.backbones.adapters.ssf import SSF
from fungistore.backbones.adapters.vpt import VPT
from fungistore.backbones.families import load_backbone
from fungistore.backbones.timm_vit.loading import adapted
from fungistore.engines.engine import Place
from fungistore.errors import MismatchError, StoreError, UsageError
from fungistore.evaluation.cluster import evaluate_cluster
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.linear import evaluate_linear
from fungistore.evaluation.options import (
    ClusterOptions,
    KnnOptions,
    LinearOptions,
    RetrievalOptions,
)
from fungistore.evaluation.retrieval import evaluate_retrieval
from fungistore.extraction.options import ExtractOptions, ReplayChoice
from fungistore.extraction.replay import replay_extraction
from fungistore.extraction.stage import extract, open_extraction
from fungistore.extraction.transformer import FungiTransformer
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import QUIET
from fungistore.matrices.splits import choose_split
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.sources.sample import NamedItem
from fungistore.store.locks import Slice
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from tiny_world import TINY, contents, write_images

METHODS: dict[str, Adapter] = {
    "full": Full(),
    "linear": Linear(),
    "deep": VPT(prompts=3),
    "shallow": VPT(prompts=3, depth="shallow"),
    "ssf": SSF(),
    "adaptformer": AdaptFormer(width=4),
    "lora": LoRA(rank=2),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """Images, and a store of them that has no features, and an adaptation "mine" by VPT."""
    root = tmp_path_factory.mktemp("adapted")
    for seed, label in enumerate(("cat", "dog")):
        write_images(root / "images" / label, 5, seed=seed)
    options = settings(tiny_weights, features=("embeddings",), feature_set="plain")
    extract(root / "images", root / "s.fungi", options)
    store = Store.open(root / "s.fungi")
    split = choose_split(store, holdout=0.2, seed=0)
    seen = [row["id"] for row in store.samples.take(split.train)]
    write_adaptation(store, VPT(prompts=3), tiny_weights, seen)
    extract(root / "images", root / "s.fungi", settings(tiny_weights, adapter="mine"))
    return root


@pytest.fixture
def store(world: Path, tmp_path: Path) -> Store:
    """A copy of that store, which has the features of "mine" too."""
    shutil.copytree(world / "s.fungi", tmp_path / "s.fungi")
    return Store.open(tmp_path / "s.fungi")


def settings(weights: Path, **more: Any) -> ExtractOptions:
    given = {"features": ("embeddings", "kl", "patches"), "image_size": 32, "dtype": "float32"}
    given |= {"batch_size": 4, "unit_rows": 4, "storage_dtype": "float32", "device": "cpu"}
    return ExtractOptions(**{"model": TINY, "weights": str(weights), **given, **more})


@pytest.mark.parametrize("method", METHODS)
def test_features_are_those_of_the_model_as_it_was_trained(
    world: Path, tiny_weights: Path, tmp_path: Path, method: str
) -> None:
    """Read back and merged, an adapted encoder gives what the training's module gave."""
    trained = write_adaptation(tmp_path / "mine", METHODS[method], tiny_weights, ["a"])
    adaptation = read_adaptation(tmp_path / "mine")
    assert adaptation.adapter == METHODS[method]
    assert (adaptation.name, adaptation.classes) == ("mine", ("cat", "dog"))
    assert not adaptation.remarks
    assert adaptation.classifier["weight"].shape == (2, 64)
    bare = tiny_encoder(tiny_weights)
    encoder = adapted(tiny_encoder(tiny_weights), adaptation)
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder.module(pixels), trained(pixels), rtol=1e-4, atol=1e-4)
    moved = (encoder.module(pixels) - bare.module(pixels)).abs().max()
    assert moved == 0 if method == "linear" else moved > 0.01
    assert not any(p.requires_grad for p in encoder.module.parameters())
    assert encoder.identity() == bare.identity() | {"adapter": adaptation.identity()}


def test_a_store_has_what_it_needs_to_know_of_an_adapter(world: Path, tiny_weights: Path) -> None:
    """A feature set of its own; method, settings and digest; the rows seen; status says it."""
    store = Store.open(world / "s.fungi")
    assert store.feature_sets() == ["plain", f"{TINY}-mine"]
    arrays = store.arrays(f"{TINY}-mine")
    adaptation = read_adaptation(store.folder(ADAPTATIONS, "mine"))
    for array in arrays.values():
        backbone = store.setups.config(array.fingerprint)["backbone"]
        assert backbone["adapter"] == {
            "method": "vpt",
            "settings": {"prompts": 3, "depth": "deep", "dropout": 0.0},
            "digest": adaptation.digest,
        }
        np.testing.assert_array_equal(store.setups.seen(array.fingerprint)[0], adaptation.seen)
    plain = store.arrays("plain")["embeddings"]
    assert store.setups.seen(plain.fingerprint) is None
    assert not np.array_equal(plain.array[:], arrays["embeddings"].array[:])
    assert arrays["patches"].array.shape[1:] == (2, 2, 64)  # no prompts among them
    shown = CliRunner().invoke(app, ["status", str(world / "s.fungi")]).stdout
    digest = adaptation.digest[:12]
    assert f"adapted by vpt prompts 3 depth deep dropout 0.0, {digest}" in shown
    assert adaptation_names(store.folder()) == ["mine"]


def test_it_resumes_and_grows_and_is_divided_among_workers(
    world: Path, store: Store, tiny_weights: Path, tmp_path: Path
) -> None:
    """A prefix and then the rest, or slices of workers, are the bytes of one run."""
    images = world / "images"
    features = ("embeddings", "kl")
    options = settings(tiny_weights, adapter="mine", feature_set="parts", features=features)
    extract(images, store.root, replace(options, limit=6))
    done = extract(images, store.root, options)
    assert (done.units_computed, done.units_total) == (2, 3)
    arguments = {"source": str(images), "store": str(store.root), "update": False}
    arguments |= {"options": replace(options, feature_set="slices").to_config()}
    work = open_extraction(arguments | {"retry_failed": False}, Place(), QUIET)
    for index in (1, 0):
        work(Slice(index, 2))
    sets = (f"{TINY}-mine", "parts", "slices")
    whole = store.arrays(sets[0])
    for other in sets[1:]:
        for name, found in store.arrays(other).items():
            array = whole[name]
            assert found.fingerprint == array.fingerprint
            np.testing.assert_array_equal(found.array[:], array.array[:])


def test_another_training_of_the_same_name_is_another_model(
    world: Path, store: Store, tiny_weights: Path
) -> None:
    """Nothing is overwritten, neither when a set is completed nor in a replay."""
    before = contents(store.root)
    shutil.rmtree(store.root / ADAPTATIONS)
    write_adaptation(store, VPT(prompts=3), tiny_weights, ["a"], seed=5)
    with pytest.raises(MismatchError, match=r"backbone\.adapter\.digest"):
        extract(world / "images", store.root, settings(tiny_weights, adapter="mine"))
    arrays = {"kl": store.arrays(f"{TINY}-mine")["gradients/kl"]}
    with pytest.raises(MismatchError, match=r"backbone\.adapter\.digest"):
        replay_extraction(
            store, f"{TINY}-mine", arrays, choice=ReplayChoice(device="cpu"), context=QUIET
        )
    after = contents(store.root)
    assert {n: b for n, b in after.items() if not n.startswith(ADAPTATIONS)} == {
        n: b for n, b in before.items() if not n.startswith(ADAPTATIONS)
    }


def test_other_weights_are_refused(world: Path, store: Store, tmp_path: Path) -> None:
    """An adaptation fits the model and the weights that it was made for."""
    from safetensors.torch import load_file, save_file

    options = Store.open(store.root).arrays("plain")["embeddings"].fingerprint
    known = json.loads((store.root / "setups" / options / "options.json").read_bytes())
    other = load_file(known["weights"])
    other["norm.bias"] = other["norm.bias"] + 1
    save_file(other, tmp_path / "other.safetensors")
    asked = settings(tmp_path / "other.safetensors", adapter="mine", feature_set="other")
    with pytest.raises(MismatchError, match="for other weights") as caught:
        extract(world / "images", store.root, asked)
    assert "weights" in str(caught.value.found)


def test_weights_of_another_size_say_so(world: Path, store: Store, tiny_weights: Path) -> None:
    """Full fine-tuning has position embeddings of its size; prompts fit all sizes."""
    write_adaptation(store, Full(), tiny_weights, ["a"], name="all")
    asked = settings(tiny_weights, adapter="all", image_size=64)
    with pytest.raises(MismatchError, match="depend on the image size") as caught:
        extract(world / "images", store.root, asked)
    assert caught.value.hint == "--image-size 32"
    larger = settings(tiny_weights, adapter="mine", image_size=64, feature_set="larger", limit=2)
    assert extract(world / "images", store.root, larger).failed == 0


@pytest.mark.parametrize(
    ("adapter", "hint"),
    [("mime", "did you mean 'mine'?"), ("other", "fungi adapt trains one"), ("./no", "fungi")],
)
def test_an_unknown_adaptation_is_refused(
    world: Path, store: Store, tiny_weights: Path, adapter: str, hint: str
) -> None:
    """With the names that there are, before anything is written."""
    before = contents(store.root)
    with pytest.raises(UsageError, match="no such adaptation") as caught:
        extract(world / "images", store.root, settings(tiny_weights, adapter=adapter))
    assert caught.value.expected == "mine"
    assert str(caught.value.hint).startswith(hint)
    assert contents(store.root) == before


def test_a_folder_is_taken_from_anywhere(
    world: Path, store: Store, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its path; a bare name means one in the store. Once it is gone, the store's counts."""
    shutil.move(store.root / ADAPTATIONS / "mine", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    bare = settings(tiny_weights, adapter="mine")
    with pytest.raises(UsageError) as caught:
        extract(world / "images", store.root, bare)
    assert caught.value.hint == "--adapter ./mine, if the folder here is meant"
    options = settings(tiny_weights, adapter="./mine")
    assert options.adapter == str(tmp_path / "mine")
    assert ExtractOptions.from_config(options.to_config()) == options
    assert extract(world / "images", store.root, options).units_computed == 0
    apart = settings(tiny_weights, adapter=Path("mine"), feature_set="apart")
    assert extract(world / "images", store.root, apart).units_computed == 3
    images = sorted((world / "images" / "cat").iterdir())
    alone = {"dtype": "float32", "adapter": str(tmp_path / "mine")}
    model = FungiTransformer(TINY, image_size=32, weights=tiny_weights, settings=alone).fit(images)
    assert model.transform(images[:1]).shape == (1, 128)
    shutil.move(tmp_path / "mine", store.root / ADAPTATIONS / "mine")
    arrays = {"embeddings": store.arrays("apart")["embeddings"]}
    choice = ReplayChoice(device="cpu")
    replay = replay_extraction(store, "apart", arrays, choice=choice, context=QUIET)
    image = images[0]
    (found,) = replay.features([NamedItem("x", str(image.parent), image.name, "x")], QUIET)
    np.testing.assert_allclose(
        found["embeddings"], store.arrays("apart")["embeddings"].array[0], rtol=1e-5, atol=1e-5
    )


def test_other_families_have_no_adapters(store: Store, tmp_path: Path) -> None:
    """The error names the family."""
    adaptation = read_adaptation(store.folder(ADAPTATIONS, "mine"))
    with pytest.raises(UsageError, match="family torchvision have no such setting") as caught:
        load_backbone("torchvision:resnet18", own_settings={"adapter": adaptation})
    assert (caught.value.where, caught.value.hint) == (
        "--adapter mine", "leave it out: it is for timm",
    )  # fmt: skip


# --- an adaptation on the disk


@pytest.mark.parametrize("epoch", [None, 0])
def test_an_adaptation_counts_from_its_first_epoch_on(
    tmp_path: Path, tiny_weights: Path, epoch: int | None
) -> None:
    """Before, there is nothing to take; while it goes on, the best one so far."""
    begun = replace(DONE, best_epoch=epoch, done=False, step=7)
    write_adaptation(tmp_path / "a", SSF(), tiny_weights, ["a"], progress=begun)
    if epoch is None:
        with pytest.raises(UsageError, match="not trained yet") as caught:
            read_adaptation(tmp_path / "a")
        assert "it continues" in str(caught.value.hint)
        assert caught.value.found == "7 steps"
    else:
        found = read_adaptation(tmp_path / "a")
        assert found.adapter == SSF()
        (warned,) = found.remarks
        assert "'a' has not ended" in warned
    (tmp_path / "a" / "state.json").unlink()
    with pytest.raises(UsageError, match="not trained yet"):
        read_adaptation(tmp_path / "a")


def edit(path: Path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))


DAMAGES: dict[str, Any] = {
    "no config": lambda f: (f / "config.json").write_bytes(b"{"),
    "a method": lambda f: edit(f / "config.json", b'"ssf"', b'"vpt"'),
    "no table": lambda f: edit(f / "config.json", b'"rows"', b'"raws"'),
    "best epoch": lambda f: edit(f / "state.json", b'"best_epoch": 0', b'"best_epoch": 1'),
    "weights gone": lambda f: next(f.glob("state-*")).unlink(),
    "weights cut": lambda f: next(f.glob("state-*")).write_bytes(b"123"),
    "seen gone": lambda f: (f / "seen.npy").unlink(),
    "seen others": lambda f: edit(f / "seen.npy", b"NUMPY", b"NUMPI"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adaptation_is_refused_and_found(
    store: Store, tiny_weights: Path, damage: str
) -> None:
    """By who reads it, and by `fungi verify`, which leaves it as it is."""
    write_adaptation(store, SSF(), tiny_weights, ["a"], name="broken")
    assert verify_store(store.root).findings == ()
    folder = store.root / ADAPTATIONS / "broken"
    DAMAGES[damage](folder)
    with pytest.raises(StoreError):
        read_adaptation(store.folder(ADAPTATIONS, "broken"))
    (finding,) = verify_store(store.root).findings
    assert (finding.kind, finding.where) == ("adaptation-damaged", "adaptations/broken")
    assert "fungi adapt SOURCE" in finding.repair
    assert folder.exists()


def test_tensors_of_another_adapter_are_damage(tmp_path: Path, tiny_weights: Path) -> None:
    """A configuration that does not fit the tensors beside it was not written with them."""
    write_adaptation(tmp_path / "a", SSF(), tiny_weights, ["a"])
    other = replace(read_adaptation(tmp_path / "a"), adapter=VPT(prompts=2))
    with pytest.raises(StoreError, match="adaptation is damaged"):
        adapted(tiny_encoder(tiny_weights), other)


# --- no leak


def test_rows_that_an_adaptation_has_seen_are_not_tested_on(store: Store) -> None:
    """By no evaluation, whatever is made of the features: each is refused with what would serve."""
    chosen = {"feature_set": f"{TINY}-mine"}
    fit_pca(store.root, PcaOptions(dim=2, name="two", holdout=0.2, seed=1, **chosen))
    small = {"head": "linear", "epochs": 1, "dtype": "float32", "name": "h", "device": "cpu"}
    runs = {
        "knn": lambda seed: evaluate_knn(store.root, KnnOptions(k=1, seed=seed, **chosen)),
        "linear": lambda seed: evaluate_linear(store.root, LinearOptions(seed=seed, **chosen)),
        "loff": lambda seed: train_loff(store.root, TrainOptions(**small, seed=seed, **chosen)),
    }
    for run in runs.values():
        with pytest.raises(UsageError, match="was adapted on") as caught:
            run(1)  # other rows are held out than those of the adaptation
        assert "--seed" in str(caught.value.hint)
        assert "jpg" in str(caught.value.found)
        run(0)
    other = {**chosen, "features": None}
    for refused in (
        lambda: evaluate_knn(store.root, KnnOptions(k=1, pca="two", seed=1, **chosen)),
        lambda: evaluate_cluster(store.root, ClusterOptions(**other)),
        lambda: evaluate_retrieval(store.root, RetrievalOptions(**other)),
    ):
        with pytest.raises(UsageError, match="was adapted on"):
            refused()
    assert evaluate_knn(store.root, KnnOptions(k=1, seed=1, feature_set="plain")).scores


def test_nothing_can_be_tested_where_all_was_seen(
    world: Path, store: Store, tiny_weights: Path
) -> None:
    """A store without splits would hold out rows that were trained on."""
    everything = [row["id"] for row in store.samples.rows(0, 10)]
    write_adaptation(store, SSF(), tiny_weights, everything, name="all")
    asked = settings(tiny_weights, adapter="all", features=("embeddings",))
    extract(world / "images", store.root, asked)
    with pytest.raises(UsageError, match="adapted on 2 of the 2 test rows") as caught:
        evaluate_knn(store.root, KnnOptions(k=1, feature_set=f"{TINY}-all"))
    assert "fungi adapt" in str(caught.value.hint)
