"""Banks, such as SimCLR's negatives: what they are made of, and whose they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feature_world import Notices, make_store
from fungistore.errors import FungiError, MismatchError, StoreError, UsageError
from fungistore.exchange.export import export_features
from fungistore.exchange.import_ import import_features
from fungistore.exchange.options import ExportOptions, ImportOptions
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.fingerprint import digest_array, fingerprint
from fungistore.indexing.build import build_index
from fungistore.indexing.opening import open_index
from fungistore.indexing.options import IndexOptions
from fungistore.machine.context import Context
from fungistore.objectives.simclr import SimCLR
from fungistore.randomness import Stream
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from tiny_world import TINY, write_images

VIEWS, NEGATIVES = 9, 3
BANK = {"bank": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def options(tiny_weights: Path) -> ExtractOptions:
    """SimCLR alone, as small as it gets."""
    return ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=32,
        features=("simclr",),
        dtype="float32",
        batch_size=2,
        unit_rows=2,
        storage_dtype="float32",
        objectives={"simclr": SimCLR(stride_scale=2, negatives=NEGATIVES, head_dim=8)},
        limit=1,
    )


def bank_of(root: Path) -> np.ndarray:
    """The negatives of a store's only feature set."""
    store = Store.open(root)
    key = store.arrays(TINY)["gradients/simclr"].fingerprint
    return store.setups.bank(key, "negatives")


def simclr_of(root: Path) -> np.ndarray:
    return Store.open(root).arrays(TINY)["gradients/simclr"].read(0, 1)


def test_negatives_are_drawn_from_the_train_split_alone(
    tmp_path: Path, options: ExtractOptions
) -> None:
    """With test images beside the training images, the negatives are those without them."""
    write_images(tmp_path / "both" / "train", 4, seed=1)
    shutil.copytree(tmp_path / "both", tmp_path / "train-only")
    write_images(tmp_path / "both" / "test", 8, seed=2)
    for name in ("both", "train-only"):
        extract(tmp_path / name, tmp_path / f"{name}.fungi", options)
    np.testing.assert_array_equal(
        bank_of(tmp_path / "both.fungi"), bank_of(tmp_path / "train-only.fungi")
    )


def test_unreadable_negatives_are_replaced_by_others(
    tmp_path: Path, options: ExtractOptions
) -> None:
    """Where the first image that was drawn is broken, the next ones take its place."""
    write_images(tmp_path / "images", 5, seed=1)
    more = SimCLR(stride_scale=2, negatives=NEGATIVES + 1, head_dim=8)
    extract(
        tmp_path / "images", tmp_path / "s.fungi", replace(options, objectives={"simclr": more})
    )
    drawn = Stream(options.seed, "negatives", "simclr").choice(5, 5)
    (tmp_path / "images" / f"{drawn[0]:03d}.jpg").write_text("broken")
    extract(tmp_path / "images", tmp_path / "broken.fungi", options)
    bank = bank_of(tmp_path / "broken.fungi")
    assert len(bank) == NEGATIVES * VIEWS
    np.testing.assert_allclose(bank, bank_of(tmp_path / "s.fungi")[VIEWS:], atol=1e-5)


def test_a_second_store_can_use_the_first_ones_negatives(
    tmp_path: Path, options: ExtractOptions
) -> None:
    """Equal settings over other images have other negatives; --bank-from makes features equal."""
    write_images(tmp_path / "first", 4, seed=1)
    write_images(tmp_path / "second", 4, seed=2)
    shutil.copy(tmp_path / "first" / "000.jpg", tmp_path / "second" / "000.jpg")
    stores = {name: tmp_path / f"{name}.fungi" for name in ("first", "second", "third")}
    first = extract(tmp_path / "first", stores["first"], options)
    second = extract(tmp_path / "second", stores["second"], options)
    assert first.fingerprints == second.fingerprints
    assert first.banks != second.banks
    assert not np.array_equal(simclr_of(stores["first"]), simclr_of(stores["second"]))

    borrowing = replace(options, bank_from=str(stores["first"]))
    third = extract(tmp_path / "second", stores["third"], borrowing)
    assert third.banks == first.banks == third.to_json()["banks"]
    np.testing.assert_array_equal(simclr_of(stores["first"]), simclr_of(stores["third"]))
    np.testing.assert_array_equal(bank_of(stores["first"]), bank_of(stores["third"]))

    # the bank is frozen: its store is no longer named or asked for, and only another one is refused
    assert extract(tmp_path / "second", stores["third"], options).banks == first.banks
    setups = Store.open(stores["third"]).setups
    stored = setups.document(setups.names()[0], "options.json")
    assert ExtractOptions.from_config(stored).bank_from is None
    assert extract(tmp_path / "second", stores["third"], borrowing).banks == first.banks
    other = replace(options, bank_from=str(stores["second"]))
    with pytest.raises(MismatchError, match="other negatives") as caught:
        extract(tmp_path / "second", stores["third"], other)
    assert "--bank-from" in str(caught.value)
    assert caught.value.exit_code == 4
    rows = Store.open(stores["third"]).arrays(TINY)["gradients/simclr"].array.shape[0]
    with pytest.raises(MismatchError, match="other negatives"):  # though features are to be made
        extract(tmp_path / "second", stores["third"], replace(other, limit=2))
    assert Store.open(stores["third"]).arrays(TINY)["gradients/simclr"].array.shape[0] == rows


def test_a_restart_deletes_nothing_for_negatives_that_it_cannot_have(
    tmp_path: Path, options: ExtractOptions
) -> None:
    """Equal settings of another feature set hold the bank; a store can keep its own through it."""
    write_images(tmp_path / "first", 3, seed=1)
    write_images(tmp_path / "second", 3, seed=2)
    giver, root = tmp_path / "giver.fungi", tmp_path / "s.fungi"
    extract(tmp_path / "first", giver, options)
    own = extract(tmp_path / "second", root, options)
    kept = replace(options, bank_from=str(root))
    assert extract(tmp_path / "second", root, kept, restart=True).banks == own.banks

    two = replace(options, feature_set="two")
    extract(tmp_path / "second", root, two)
    said: list[str] = []
    other = replace(two, bank_from=str(giver))
    with pytest.raises(MismatchError, match="other negatives") as caught:
        extract(tmp_path / "second", root, other, restart=True, context=Context(Notices(said)))
    assert TINY in str(caught.value)
    assert "--restart" not in str(caught.value)
    assert not any("deleting" in line for line in said)
    assert Store.open(root).arrays("two")["gradients/simclr"].commits()


def test_negatives_that_do_not_suit_are_refused(tmp_path: Path, options: ExtractOptions) -> None:
    """A store without negatives, of another number or another encoder, or needless, is refused."""
    write_images(tmp_path / "images", 4, seed=1)
    source, giver = tmp_path / "images", tmp_path / "giver.fungi"
    extract(source, giver, options)
    bare = replace(options, features=("embeddings",))
    extract(source, tmp_path / "bare.fungi", bare)
    borrowing = replace(options, bank_from=str(giver))
    fewer = {"simclr": SimCLR(stride_scale=2, negatives=2, head_dim=8)}
    cases: list[tuple[ExtractOptions, type[FungiError], str]] = [
        (replace(options, bank_from=str(tmp_path / "bare.fungi")), UsageError, "no negatives"),
        (replace(options, bank_from=str(tmp_path / "none.fungi")), UsageError, "not a fungi store"),
        (replace(bare, bank_from=str(giver)), UsageError, "none of the features"),
        (
            replace(borrowing, objectives=fewer),
            MismatchError,
            r"simclr\.negatives: stored 3, asked",
        ),
        (replace(borrowing, image_size=64), MismatchError, r"backbone\.image_size"),
        (replace(borrowing, seed=1), MismatchError, r"gradient\.seed"),
    ]
    for asked, error, message in cases:
        with pytest.raises(error, match=message):
            extract(source, tmp_path / "new.fungi", asked)
        assert not (tmp_path / "new.fungi").exists()


def test_a_setting_of_the_shell_and_of_files(tmp_path: Path) -> None:
    """The store is known by its whole path, whatever the directory of a later run."""
    read = ExtractOptions.from_config({"model": TINY, "bank-from": "other.fungi"})
    assert read.bank_from == str(Path("other.fungi").absolute())
    assert ExtractOptions.from_config(read.to_config()) == read


def with_bank(store: Store, bank: dict[str, np.ndarray]) -> None:
    """Give the setup of a store's SimCLR features negatives, in place of those that it has."""
    array = store.arrays("set")["gradients/simclr"]
    config = store.setups.config(array.fingerprint)
    store.folder("setups").remove(array.fingerprint)
    made: dict[str, Any] = {"banks": {"negatives": digest_array(bank["bank"])}}
    store.setups.freeze(config, {"bank.negatives": bank}, {"made": made})
    assert fingerprint(config) == array.fingerprint


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def test_an_index_is_not_of_features_with_other_negatives(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    """Features made anew with equal settings and other negatives are refused, and said why."""
    store = make_store(tmp_path / "s.fungi", {"gradients/simclr": vectors}, ["x"] * 8)
    with_bank(store, BANK)
    build_index(store.root, IndexOptions(name="i", factory="Flat"))
    assert open_index(Store.open(store.root), "i").vectors.count == 8
    with_bank(store, {"bank": BANK["bank"] + 1})
    with pytest.raises(MismatchError, match="SimCLR's negatives") as caught:
        open_index(Store.open(store.root), "i")
    assert "--restart" in str(caught.value)
    kinds = {finding.kind for finding in verify_store(store.root).findings}
    assert "index-stale" in kinds


def test_an_array_that_names_no_bank_is_judged_by_its_settings(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    """An index of before digests were recorded opens, and a recorded bank is found in its file."""
    store = make_store(tmp_path / "s.fungi", {"gradients/simclr": vectors}, ["x"] * 8)
    build_index(store.root, IndexOptions(name="i", factory="Flat"))
    key = store.arrays("set")["gradients/simclr"].fingerprint
    with_bank(store, BANK)
    (store.root / "setups" / key / "made.json").unlink()
    assert store.setups.banks(key) == {"negatives": digest_array(BANK["bank"])}
    assert open_index(Store.open(store.root), "i").vectors.count == 8


def test_a_bank_that_is_not_the_recorded_one_is_refused(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    """A bank's file that was exchanged is a damaged setup."""
    store = make_store(tmp_path / "s.fungi", {"gradients/simclr": vectors}, ["x"] * 8)
    with_bank(store, BANK)
    key = store.arrays("set")["gradients/simclr"].fingerprint
    np.testing.assert_array_equal(store.setups.bank(key, "negatives"), BANK["bank"])
    made = store.root / "setups" / key / "made.json"
    made.write_text(made.read_text().replace(digest_array(BANK["bank"]), "0" * 32))
    with pytest.raises(StoreError, match="damaged"):
        store.setups.bank(key, "negatives")


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
def test_exports_with_other_negatives_are_not_joined(
    tmp_path: Path, vectors: np.ndarray, suffix: str
) -> None:
    """Files of two stores become one array only if both were compared with the same negatives."""
    files = []
    for number in range(3):
        root = tmp_path / f"{number}.fungi"
        store = make_store(root, {"gradients/simclr": vectors}, ["x"] * 8)
        with_bank(store, {"bank": BANK["bank"] + number // 2})
        files.append(tmp_path / f"{number}{suffix}")
        done = export_features(root, files[-1], ExportOptions())
        (reference,) = done.fingerprints.values()
        assert reference.endswith("+" + digest_array(BANK["bank"] + number // 2))
    if suffix == ".npy":
        import pyarrow.parquet as pq

        metadata = pq.read_metadata(tmp_path / "0.samples.parquet").metadata
        stored = json.loads(metadata[b"fungi"])["banks"]
        assert stored == {"set/gradients/simclr": digest_array(BANK["bank"])}
    with pytest.raises(MismatchError, match="negatives") as caught:
        import_features([files[0], files[2]], tmp_path / "joined.fungi", ImportOptions())
    assert "--bank-from" in str(caught.value)
    assert not (tmp_path / "joined.fungi").exists()
    options = ImportOptions(feature="simclr")
    with pytest.raises(UsageError, match="more than once"):  # the same ids, nothing else
        import_features(files[:2], tmp_path / "joined.fungi", options)
    import_features(files[0], tmp_path / "joined.fungi", options)
    again = export_features(tmp_path / "joined.fungi", tmp_path / f"again{suffix}")
    (reference,) = again.fingerprints.values()
    assert reference.endswith("+" + digest_array(BANK["bank"]))


def test_negatives_are_compared_where_the_first_file_has_none(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    """Of three files the second and the third are held against each other too."""
    files = []
    for number, feature in enumerate(["embeddings", "gradients/simclr", "gradients/simclr"]):
        store = make_store(tmp_path / f"{number}.fungi", {feature: vectors}, ["x"] * 8)
        if number:
            with_bank(store, {"bank": BANK["bank"] + number})
        files.append(tmp_path / f"{number}.npy")
        export_features(store.root, files[-1], ExportOptions())
    with pytest.raises(MismatchError, match="negatives") as caught:
        import_features(files, tmp_path / "joined.fungi", ImportOptions(feature="simclr"))
    assert all(name in str(caught.value) for name in ("1.npy", "2.npy"))


def test_other_versions_are_said_and_not_refused(tmp_path: Path, options: ExtractOptions) -> None:
    """A store that was made with another torch goes on, and says so once."""
    write_images(tmp_path / "images", 3, seed=1)
    plain = replace(options, features=("embeddings", "kl"))
    said: list[str] = []
    context = Context(Notices(said))
    extract(tmp_path / "images", tmp_path / "s.fungi", plain, context=context)
    assert not any("were made with" in line for line in said)
    for made in (tmp_path / "s.fungi" / "setups").glob("*/made.json"):
        document = json.loads(made.read_text())
        assert torch.__version__.startswith(document["versions"]["torch"])
        assert document["versions"].keys() >= {"torch", "torchvision", "timm", "pillow"}
        document["versions"]["timm"] = "0.9.1"
        made.write_text(json.dumps(document))
    done = extract(
        tmp_path / "images", tmp_path / "s.fungi", replace(plain, limit=2), context=context
    )
    assert done.samples == 2
    (line,) = [line for line in said if "were made with" in line]
    assert "timm 0.9.1; this is timm" in line
