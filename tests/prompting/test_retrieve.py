"""`fungi retrieve`: exact neighbours of the train split, as lines of JSON and as prompts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fungi_cli.main import app
from prompt_world import CLASSES, make_texts, news
from typer.testing import CliRunner

import fungistore as fungi
from feature_world import Notices, clustered, make_store
from fungistore.errors import FungiError, MismatchError, TextError, UsageError
from fungistore.machine.context import Context
from fungistore.modalities.reading import digest_item, read_with_digest
from fungistore.prompting import items, neighbours, retrieve
from fungistore.store.item_digests import UNKNOWN, ItemDigests


def shell(*words):
    return CliRunner().invoke(app, ["retrieve", *map(str, words)])


def lines(run):
    assert run.exit_code == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def plain(store, features, queries, k):
    """Return rows and cosines of the k nearest training rows, by sorting all."""
    _, vectors = fungi.open_features(store, features).load()
    vectors = vectors.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    splits = store.samples.splits()
    cosines = vectors[splits[queries]] @ vectors[splits["train"]].T
    if queries == "train":
        np.fill_diagonal(cosines, -2)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return splits["train"][order], np.take_along_axis(cosines, order, 1)


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize("features", [("embeddings",), ("embeddings", "kl")])
def test_examples_are_the_nearest_training_rows(tmp_path, split, features):
    """By the cosine of all blocks, nearest first; a training row is no example of its own."""
    store = news(tmp_path / "n.fungi")
    options = fungi.RetrieveOptions(k=7, features=features, split=split)
    found = fungi.retrieve(store.root, options)
    rows, cosines = plain(store, features, split, 7)
    ids = list(store.samples.ids())
    shown = list(found)
    assert [[one.item.id for one in answer.examples] for answer in shown] == [
        [ids[row] for row in some] for some in rows.tolist()
    ]
    assert [answer.query.id for answer in shown] == [
        ids[row] for row in store.samples.splits()[split]
    ]
    similarities = [[one.similarity for one in answer.examples] for answer in shown]
    assert np.allclose(similarities, cosines, atol=1e-6)
    assert (found.queries, found.train, found.k) == (len(rows), 30, 7)


def test_memory_limits_change_nothing(tmp_path, monkeypatch):
    """Neither texts that are dropped, nor blocks of queries and rows of a few at a time."""
    store = news(tmp_path / "n.fungi", unit_rows=4)
    expected = list(fungi.retrieve(store.root).records())
    monkeypatch.setattr(items, "HELD_CHARACTERS", 10)
    monkeypatch.setattr(retrieve, "AT_ONCE", 2)
    monkeypatch.setattr("fungistore.matrices.blocks.STREAM_BYTES", 1)
    monkeypatch.setattr("fungistore.evaluation.task.RESIDENT_BYTES", 1)
    assert list(fungi.retrieve(store.root).records()) == expected


def test_a_line_has_texts_labels_and_similarities(tmp_path):
    """The query's too; the order can be turned round."""
    store = news(tmp_path / "n.fungi")
    first, *others = lines(shell(store.root, "--k", "3"))
    assert len(others) == 8
    assert (first["id"], first["label"]) == ("t0030", "sport")
    assert first["text"] == "report 30 of {label} matters"
    assert set(first["examples"][0]) == {"id", "label", "text", "similarity"}
    turned, *_ = lines(shell(store.root, "--k", "3", "--order", "nearest-last"))
    assert turned["examples"] == first["examples"][::-1]


def test_other_samples_than_texts_are_named_by_their_uri(tmp_path):
    """An image's examples are files; prompts of them are refused, naming the other format."""
    vectors, labels = clustered(20, 2, 4)
    splits = ["train"] * 15 + ["test"] * 5
    store = make_store(tmp_path / "i.fungi", {"embeddings": vectors}, labels, splits)
    first, *_ = lines(shell(store.root, "--k", "2"))
    assert first["uri"] == "/nowhere/000015.jpg"
    assert set(first["examples"][0]) == {"id", "label", "uri", "similarity"}
    refused = shell(store.root, "--format", "prompts")
    assert refused.exit_code == 2
    assert "found: a store of images" in refused.stderr
    assert "--format jsonl" in refused.stderr


def test_a_file_appears_whole_and_replaces_nothing_unasked(tmp_path):
    """--out; with --json one object, which without it has the lines."""
    store, file = news(tmp_path / "n.fungi"), tmp_path / "near.jsonl"
    printed = shell(store.root, "--k", "2").stdout
    done = shell(store.root, "--k", "2", "--out", file)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{file}: 9 queries, 2 of 30 training rows each\n"
    assert file.read_text() == printed
    refused = shell(store.root, "--out", file)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    again = shell(store.root, "--k", "1", "--out", file, "--force", "--json")
    assert json.loads(again.stdout)["file"] == str(file)
    whole = json.loads(shell(store.root, "--k", "2", "--json").stdout)
    assert whole["lines"] == [json.loads(line) for line in printed.splitlines()]
    assert (whole["queries"], whole["labels"]) == (9, sorted(CLASSES))
    assert list(tmp_path.glob(".*")) == []


def test_fewer_rows_than_asked_for_are_said_and_used(tmp_path):
    """All of them are examples then; a training row has one less."""
    store, said = news(tmp_path / "n.fungi", train=5, test=4), []
    context = Context(Notices(said))
    (first, *_) = fungi.retrieve(store.root, fungi.RetrieveOptions(k=6), context=context)
    assert len(first.examples) == 5
    assert said == ["--k 6 of 5 training rows: 5 are used; all are examples"]
    options = fungi.RetrieveOptions(k=6, split="train")
    assert len(next(iter(fungi.retrieve(store.root, options))).examples) == 4


def test_queries_need_no_label_and_examples_do(tmp_path):
    """Training rows without one are left out, and counted."""
    labels = [None if row % 2 else CLASSES[row % 3] for row in range(12)] + [None] * 3
    splits = ["train"] * 12 + ["test"] * 3
    store = make_texts(tmp_path / "n.fungi", ["x"] * 15, labels, splits)
    run = shell(store.root, "--k", "6")
    found = lines(run)
    assert [one["label"] for one in found] == [None] * 3
    assert all(example["label"] for one in found for example in one["examples"])
    assert "excluded: 6 rows without a label" in run.stderr


@pytest.mark.parametrize(
    ("labels", "splits", "words", "what", "hint"),
    [
        ([None] * 9, ["train"] * 6 + ["test"] * 3, [], "no labels", "label the samples"),
        (["a", "b", "c"] * 3, [None] * 9, [], "no split 'test'", "fungi label"),
        (["a", "b", "c"] * 3, ["train"] * 9, [], "no split 'test'", "fungi label"),
        (["a", "b", "c"] * 3, ["test"] * 9, [], "no split 'train'", "fungi label"),
        (["a", "b", "c"] * 3, ["train"] * 9, ["--split", "val"], "no split 'val'", "fungi label"),
        (["a"] * 9, ["train"] + ["test"] * 8, ["--split", "train"], "no query has another", ""),
    ],
)
def test_what_lacks_rows_is_refused(tmp_path, labels, splits, words, what, hint):
    """Without labels, without splits, or with one row in all: what is missing is named."""
    store = make_texts(tmp_path / "n.fungi", ["x"] * 9, labels, splits)
    run = shell(store.root, *words)
    assert run.exit_code == 2
    assert what in run.stderr
    assert hint in run.stderr
    assert run.stdout == ""


def test_a_split_without_features_is_empty(tmp_path):
    """Its rows are there, and none can be compared."""
    vectors = clustered(10, 2, 4)[0]
    vectors[7:] = np.nan
    splits = ["train"] * 7 + ["test"] * 3
    store = make_store(tmp_path / "s", {"embeddings": vectors}, ["a", "b"] * 5, splits)
    run = shell(store.root)
    assert run.exit_code == 2
    assert "no row of the split 'test' has usable features" in run.stderr
    assert "fungi status" in run.stderr


def test_a_stored_pca_is_searched_by_cosine_and_must_not_have_seen_the_queries(tmp_path):
    """Its coordinates are divided by their norm, too."""
    store = news(tmp_path / "n.fungi")
    fungi.fit_pca(store.root, fungi.PcaOptions(dim=3, name="three"))
    fungi.fit_pca(store.root, fungi.PcaOptions(dim=3, name="all", fit_split="all"))
    found = list(fungi.retrieve(store.root, fungi.RetrieveOptions(k=4, pca="three")))
    matrix = fungi.open_features(store.root, pca="three")
    _, vectors = matrix.load()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.sort(vectors[30:] @ vectors[:30].T, axis=1)[:, ::-1][:, :4]
    assert np.allclose([[e.similarity for e in one.examples] for one in found], cosines, atol=1e-5)
    with pytest.raises(MismatchError, match="fitted on 9 of the 9"):
        fungi.retrieve(store.root, fungi.RetrieveOptions(pca="all"))


def test_a_text_that_is_gone_is_named(tmp_path):
    """Its file was moved since; what to do is said."""
    store = news(tmp_path / "n.fungi")
    file = tmp_path / "gone.txt"
    samples = items.Items(store, "set", None)
    with pytest.raises(FungiError, match="cannot be read again") as caught:
        samples._text(0, str(tmp_path), file.name)
    assert caught.value.where == file.name
    assert "fungi extract" in str(caught.value.hint)


def test_a_text_that_is_gone_leaves_one_json_object(tmp_path, monkeypatch):
    """With --json stdout has the error alone, and no half of what was found before it."""
    store, given = news(tmp_path / "n.fungi"), []

    def read(*place):
        given.append(place)
        if len(given) > 20:
            raise TextError("it is gone")
        return read_with_digest(*place)

    monkeypatch.setattr(items, "read_with_digest", read)
    monkeypatch.setattr(retrieve, "AT_ONCE", 2)
    run = shell(store.root, "--k", "3", "--json")
    assert run.exit_code == 1
    assert json.loads(run.stdout)["error"]["what"] == "a text cannot be read again"


def test_a_template_without_prompts_is_refused(tmp_path):
    """Lines of examples have no place for it, and it was meant for something."""
    run = shell(tmp_path / "none.fungi", "--template", "prompt.txt")
    assert run.exit_code == 2
    assert "--format prompts" in run.stderr


def test_texts_that_are_others_than_their_features_are_said(tmp_path):
    """A file was written anew since: its neighbours are those of what it said before."""
    store = news(tmp_path / "n.fungi")
    made = [digest_item(row["root"], row["uri"]) for row in store.samples.take(range(16))]
    made[3] += 1
    made[7] = UNKNOWN
    ItemDigests(store.backend, "set").add(0, 0, np.array(made, np.uint64), 16)
    said, options = [], fungi.RetrieveOptions(k=30, max_characters=9)
    list(fungi.retrieve(store.root, options, context=Context(Notices(said))))
    assert said == [
        "1 text is no longer what the features were made of: fungi extract --update makes these "
        "anew",
        "39 texts were cut to 9 characters",
    ]


def test_a_stop_is_heard_between_blocks(tmp_path):
    """And nothing is left of a file that was being written."""
    store = news(tmp_path / "n.fungi")
    found = fungi.retrieve(store.root, context=Context(stop=lambda: True))
    with pytest.raises(FungiError, match="stopped on request"):
        found.write(tmp_path / "near.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["n.fungi"]


def test_equal_texts_come_in_the_order_of_the_store(tmp_path):
    """Ties by row; the query's own row is left out even where others are equal to it."""
    vectors = np.ones((8, 3), np.float32)
    splits = ["train"] * 8
    store = make_store(tmp_path / "s", {"embeddings": vectors}, ["a", "b"] * 4, splits)
    options = fungi.RetrieveOptions(k=3, split="train")
    found = [[e.item.id[5] for e in one.examples] for one in fungi.retrieve(store.root, options)]
    assert found[:3] == [["1", "2", "3"], ["0", "2", "3"], ["0", "1", "3"]]
    assert found[4:] == [["0", "1", "2"]] * 4
    with pytest.raises(UsageError, match="no query has another"):
        neighbours.at_most(3, np.array([2]), np.array([2]), Context())
