"""Texts through the stages: the same bits in any company, and everything else as images have it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("transformers", reason="the extra fungistore[text]")

import fungistore as fungi
from fungistore.errors import MismatchError, UsageError
from fungistore.extraction.resolve import resolve
from fungistore.machine.user_cache import user_cache
from fungistore.store.store import Store
from text_world import LONGEST, WORDS, save_encoder

FEATURES = ("embeddings", "kl", "mlm", "simclr", "patches")
FULL = LONGEST - 3  # words of a text that is as long as the model takes, with its number behind
MLM = "gradients/mlm"
SIMCLR = {"views": 3, "negatives": 6, "head_dim": 8, "deletion": 0.3}


def texts(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of one to seventy words; those of class b say dog more often."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        length = int(random.choice([1, 3, 9, 20, 30, 70])) if number != 10 else FULL
        words = [WORDS[place] for place in random.integers(len(WORDS), size=length)]
        label = "ab"[number % 2]
        text = " ".join([*words, *["dog"] * (3 * (label == "b")), str(number)])
        split = "test" if number % 4 == 0 else "train"
        rows.append({"id": f"t{number:02}", "text": text, "label": label, "split": split})
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    return f"text:{save_encoder(folder, 'bert', words=True)}"


def options(model: str, **more: Any) -> fungi.ExtractOptions:
    given: dict[str, Any] = {"features": FEATURES, "unit_rows": 16, "workers": 2}
    given["objectives"] = {"simclr": SIMCLR, "mlm": {"views": 2}}
    return fungi.ExtractOptions(model=model, **given | more)


def arrays(store: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Every array's rows by the ids of their texts."""
    opened = Store.open(store)
    ids = list(opened.samples.ids())
    (name,) = opened.feature_sets()
    return {
        path: dict(zip(ids, array.read(0, len(ids)), strict=True))
        for path, array in opened.arrays(name).items()
    }


def assert_same(one: Path, other: Path, *paths: str) -> None:
    first, second = arrays(one), arrays(other)
    for path in paths or first:
        assert first[path].keys() == second[path].keys()
        for key, row in first[path].items():
            assert np.array_equal(row, second[path][key], equal_nan=True), (path, key)


@pytest.mark.parametrize(("pooling", "head"), [("class", "auto"), ("mean", "random")])
def test_features_depend_on_the_text_alone(
    model: str, tmp_path: Path, pooling: str, head: str
) -> None:
    """Workers, threads, batches and the order of the rows change no bit; the store is sound."""
    objectives = {"simclr": SIMCLR, "mlm": {"views": 2, "head": head, "head_dim": 9}}
    rows, asked = texts(40), options(model, pooling=pooling, objectives=objectives)
    table = write(tmp_path / "t.csv", rows)
    done = fungi.extract(table, tmp_path / "one.fungi", asked)
    assert (done.samples, done.failed, done.feature_set) == (40, 0, "text-tiny-bert")
    assert done.cut == sum(len(row["text"].split()) > 46 for row in rows) > 0
    fewer = replace(asked, workers=1, batch_size=7, features=FEATURES[:3])
    backwards = write(tmp_path / "b.csv", rows[::-1])
    torch.set_num_threads(3)
    try:
        fungi.extract(backwards, tmp_path / "two.fungi", fewer)
    finally:
        torch.set_num_threads(1)
    same = ("embeddings", "gradients/kl", "gradients/mlm", "norms/mlm")
    assert_same(tmp_path / "two.fungi", tmp_path / "one.fungi", *same)
    assert fungi.verify_store(tmp_path / "one.fungi").is_sound
    lengths = arrays(tmp_path / "one.fungi")["lengths/embeddings"]
    assert lengths["t01"] == len(rows[1]["text"].split()) + 2


def test_a_longer_table_gives_what_it_would_have_given_at_once(model: str, tmp_path: Path) -> None:
    """Rows that were there stay; new ones, in a unit begun before too, have the bits of one run."""
    rows, asked = texts(40), options(model, features=("embeddings", "kl", "patches"))
    write(tmp_path / "t.csv", rows[:21])
    fungi.extract(tmp_path / "t.csv", tmp_path / "grown.fungi", asked)
    write(tmp_path / "t.csv", rows)
    grown = fungi.extract(tmp_path / "t.csv", tmp_path / "grown.fungi", asked)
    assert grown.images_computed == 19
    fungi.extract(tmp_path / "t.csv", tmp_path / "once.fungi", asked)
    assert_same(tmp_path / "grown.fungi", tmp_path / "once.fungi")


def test_a_changed_text_is_made_anew(model: str, tmp_path: Path) -> None:
    """A text has no time: by its content it is seen to have changed, and with update remade."""
    rows, asked = texts(20), options(model, features=("embeddings",))
    table = write(tmp_path / "t.csv", rows)
    fungi.extract(table, tmp_path / "s.fungi", asked)
    before = arrays(tmp_path / "s.fungi")["embeddings"]
    rows[5]["text"] = "the red bird ran"
    write(table, rows)
    fungi.extract(table, tmp_path / "s.fungi", asked)
    assert_arrays = arrays(tmp_path / "s.fungi")["embeddings"]
    assert np.array_equal(assert_arrays["t05"], before["t05"])
    done = fungi.extract(table, tmp_path / "s.fungi", asked, update=True)
    after = arrays(tmp_path / "s.fungi")["embeddings"]
    changed = [key for key in before if not np.array_equal(before[key], after[key])]
    assert (changed, done.redone) == (["t05"], 1)
    fungi.extract(table, tmp_path / "once.fungi", asked)
    assert_same(tmp_path / "s.fungi", tmp_path / "once.fungi")


def test_a_table_that_moved_still_has_its_texts(model: str, tmp_path: Path) -> None:
    """In another folder, while the old one stays: long texts, which stand in it, are found."""
    rows, asked = texts(12), options(model, features=("embeddings",))
    rows[7]["text"] += " cat" * 2000
    table, store = write(tmp_path / "t.csv", rows), tmp_path / "s.fungi"
    fungi.extract(table, store, asked)
    (tmp_path / "data").mkdir()
    moved = table.rename(tmp_path / "data" / "t.csv")
    before = (store / "store.json").read_text()
    assert fungi.extract(moved, store, asked).images_computed == 0
    assert (store / "store.json").read_text() != before
    done = fungi.extract(moved, store, replace(asked, features=("embeddings", "kl")))
    assert (done.failed, done.samples) == (0, 12)


def test_stages_behind_an_extraction_take_texts(model: str, tmp_path: Path) -> None:
    """PCA, index, search by a sentence, evaluation and examples, as of images."""
    table = write(tmp_path / "t.csv", texts(40))
    store = tmp_path / "s.fungi"
    fungi.extract(table, store, options(model, features=("embeddings", "kl", "simclr")))
    fungi.fit_pca(store, fungi.PcaOptions(dim=8, name="small"))
    fungi.build_index(store, fungi.IndexOptions(name="near"))
    first = texts(40)[1]
    found = fungi.search(store, [first["text"], "t01"], fungi.SearchOptions(index="near", k=3))
    said, sample = found.answers
    assert [one.sample.id for one in said.neighbours][:1] == ["t01"]
    assert said.neighbours[0].sample.text == first["text"]
    assert "t01" not in [one.sample.id for one in sample.neighbours]
    scores = fungi.KnnOptions(k=3, combinations="nested").evaluate(store).scores
    assert [len(score.features) for score in scores] == [1, 2, 3]
    with pytest.raises(MismatchError) as error:
        fungi.extract(table, store, options(model, features=("embeddings",), pooling="mean"))
    assert "pooling" in str(error.value)


def test_masked_words_are_asked_of_a_head_that_is_known_by_its_weights(
    model: str, tmp_path: Path
) -> None:
    """Their own is not stored, but decides; a random one is. Who asks for either goes on with it.

    A text without a word that could be masked has zeros, and queries meet what was extracted.
    """
    rows = texts(12)
    rows[3]["text"] = "[SEP] [CLS]"
    table, store = write(tmp_path / "t.csv", rows), tmp_path / "s.fungi"
    asked = options(model, features=("embeddings", "mlm"))
    fungi.extract(table, store, asked)
    setups = Store.open(store).setups
    (array,) = [a for p, a in Store.open(store).arrays("text-tiny-bert").items() if p == MLM]
    config = setups.config(array.fingerprint)
    assert (config["mlm"]["head"], len(config["mlm"]["word_head"])) == ("weights", 32)
    assert setups.tensors(array.fingerprint, "tensors") == {}
    found = arrays(store)
    assert not found[MLM]["t03"].any()
    assert found["norms/mlm"]["t03"] == 0 < found["norms/mlm"]["t04"]
    named = replace(asked, objectives={"mlm": {"views": 2, "head": "weights"}})
    assert fungi.extract(table, store, named).images_computed == 0
    other = replace(asked, objectives={"mlm": {"views": 2, "head": "random"}})
    with pytest.raises(MismatchError, match="head"):
        fungi.extract(table, store, other)
    fungi.build_index(store, fungi.IndexOptions(name="near", features=("mlm",)))
    answers = fungi.search(store, [rows[1]["text"]], fungi.SearchOptions(index="near", k=1)).answers
    assert len(answers[0].neighbours) == 1
    fungi.extract(table, tmp_path / "random.fungi", other)
    (array,) = [
        a
        for p, a in Store.open(tmp_path / "random.fungi").arrays("text-tiny-bert").items()
        if p == MLM
    ]
    frozen = Store.open(tmp_path / "random.fungi").setups.tensors(array.fingerprint, "tensors")
    assert frozen["words.weight"].shape == (2048, 32)


@pytest.mark.slow
def test_masked_words_of_a_real_encoder_depend_on_the_text_alone(tmp_path: Path) -> None:
    """At the size that users have, where products are large: threads and company change no bit.

    The encoder has no head of words, so its 30,522 word embeddings are the head.
    """
    folder = user_cache() / "all-MiniLM-L6-v2"
    if not folder.is_dir():
        pytest.skip("`fungi demo texts --of texts` brings the encoder")
    rows = texts(12)
    asked = options(f"text:{folder}", features=("mlm",), objectives={}, max_length=64)
    assert "mlm.head=embeddings" in " ".join(resolve(asked, {}).remarks)
    table, backwards = write(tmp_path / "t.csv", rows), write(tmp_path / "b.csv", rows[::-1])
    torch.set_num_threads(3)
    try:
        fungi.extract(table, tmp_path / "one.fungi", asked)
    finally:
        torch.set_num_threads(1)
    fungi.extract(backwards, tmp_path / "two.fungi", asked)
    assert_same(tmp_path / "two.fungi", tmp_path / "one.fungi", "gradients/mlm", "norms/mlm")


@pytest.mark.parametrize("feature", ["dino", "deepcluster", "ibot"])
def test_crops_and_masked_patches_are_of_images_alone(model: str, feature: str) -> None:
    """Of texts there are none, which is said before anything is made, with what can be had."""
    with pytest.raises(UsageError, match=f"{feature} has no views of texts") as caught:
        resolve(options(model, features=("embeddings", feature)), {})
    assert f"--features {feature}" in str(caught.value)
    assert "kl needs no views" in str(caught.value.hint)


def test_masked_words_are_of_texts_alone(tmp_path: Path, model: str, tiny_weights: Path) -> None:
    """Of images there are none; a head of the weights can be asked for only where there is one."""
    images = fungi.ExtractOptions(model="test_vit", weights=str(tiny_weights), features=("mlm",))
    with pytest.raises(UsageError, match="mlm has no views of images"):
        resolve(images, {})
    asked = replace(images, objectives={"mlm": {"head": "weights"}})
    with pytest.raises(UsageError, match="mlm has no views of images"):  # no head would help
        resolve(asked, {})
    folder = save_encoder(tmp_path / "headless", "bert")
    with pytest.raises(UsageError, match="carry no such head of words"):
        resolve(
            options(f"text:{folder}", features=("mlm",), objectives={"mlm": {"head": "weights"}}),
            {},
        )
    said = resolve(options(f"text:{folder}", features=("mlm",)), {}).remarks
    assert "mlm.head=embeddings: the word embeddings, since the weights carry no head of words" in (
        said
    )
    said = resolve(options(model, features=("mlm",)), {}).remarks
    assert "mlm.head=weights: the one that the weights carry" in said


def test_a_store_has_one_modality(model: str, tmp_path: Path) -> None:
    """A model of images is refused where texts are, before it is loaded."""
    table, store = write(tmp_path / "t.csv", texts(4)), tmp_path / "s.fungi"
    fungi.extract(table, store, options(model, features=("embeddings",)))
    images = fungi.ExtractOptions(model="test_vit", features=("embeddings",))
    with pytest.raises(MismatchError, match="texts"):
        fungi.extract(table, store, images)
    assert json.loads((store / "store.json").read_text())["modality"] == "text"
