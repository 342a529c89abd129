"""Heads of several stores in one table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import make_store, write_block
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions, LoffTableOptions
from fungistore.loff.options import Augmentation, TrainOptions
from fungistore.loff.table import method_of, table_loff
from fungistore.loff.train import train_loff

ROWS = 40
PLAIN, TRIVIAL = Augmentation(kind="none"), Augmentation()


def store_of(path, seed):
    random = np.random.default_rng(seed)
    patches = random.normal(size=(ROWS, 2, 2, 4)).astype(np.float16)
    patches[::2, 0] += 2
    blocks = {"patches": patches, "embeddings": patches.mean(axis=(1, 2))}
    return make_store(path, blocks, ["ab"[row % 2] for row in range(ROWS)], unit_rows=8)


def train(store, name, augment=PLAIN, **changes):
    quick = {"head": "attn-pool", "epochs": 1, "batch_size": 16, "dtype": "float32"}
    train_loff(store.root, TrainOptions(**(quick | changes), name=name, augment=augment))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores: the methods of the paper, twice each in the first, some of them in the second."""
    root = tmp_path_factory.mktemp("tables")
    first, second = (store_of(root / f"{name}.fungi", seed) for seed, name in enumerate("pq"))
    for seed in (0, 1):
        train(first, f"plain-{seed}", seed=seed, split_seed=0)
        train(first, f"ta-{seed}", TRIVIAL, seed=seed, split_seed=0)
    train(first, "linear", head="linear")
    train(first, "pooled", TRIVIAL, pool=2)
    for seed in (0, 1):
        train(second, f"plain-{seed}", seed=seed, split_seed=0)
    return first, second


def test_heads_that_differ_in_seeds_are_a_row_with_the_papers_name(stores):
    """The numbers are those of `eval loff`; a cell of a store without such heads is empty."""
    first, second = stores
    table = table_loff([first.root, second.root], LoffTableOptions(metrics=("accuracy", "roc_auc")))
    assert [(row.method, row.name) for row in table.rows] == [
        ("Frozen + linear", "linear"),
        ("LOFF", "plain-* (2)"),
        ("LOFF-TA + Pool", "pooled"),
        ("LOFF-TA", "ta-* (2)"),
    ]
    plain = table.rows[1]
    for store in stores:
        (score,) = evaluate_loff(store.root, LoffOptions(heads=("plain-*",))).scores
        assert plain.cells[store.where].metrics == score.metrics
        assert plain.cells[store.where].spread == score.spread
    lines = table.to_markdown().splitlines()
    assert lines[0].count("p, accuracy") == lines[0].count("q, roc auc") == 1
    cells = plain.cells[first.where].metrics
    shown = f"{100 * cells['accuracy']:.1f} ± {100 * cells['accuracy_deviation']:.1f}"
    assert lines[3].split(" | ")[4] == shown
    assert lines[2].split(" | ")[6] == "-"  # the second store has no linear head
    assert len({line.count("|") for line in lines}) == 1
    speed = plain.speed.training
    assert f" {speed.images_per_second:.0f} | " in lines[3]
    assert f"{speed.peak_rss_bytes / 1e9:.2f}" in lines[3].split(" | ")[-1]


def test_lines_have_titles_and_patterns(stores):
    options = LoffTableOptions(lines=("Mine=set/ta-?", "A|B=plain-0"))
    table = table_loff(stores[0].root, options)
    assert [(row.method, row.cells[stores[0].where].heads) for row in table.rows] == [
        ("Mine", ("ta-0", "ta-1")),
        ("A|B", ("plain-0",)),
    ]
    assert "A\\|B" in table.to_markdown()
    with pytest.raises(UsageError, match="no head to tell of") as caught:
        table_loff(stores[0].root, LoffTableOptions(lines=("X=none-*",)))
    assert "none-*" in str(caught.value.expected)
    for wrong in ("ta-*", "=ta-*", "X="):
        with pytest.raises(UsageError, match="cannot use this value of line"):
            LoffTableOptions(lines=(wrong,))


def test_ensembles_and_flips_are_rows_behind_the_heads(stores):
    """Where there are several heads, and where there is something to flip."""
    lines = ("L=plain-*", "One=linear", "P=pooled")
    table = table_loff(stores[0].root, LoffTableOptions(lines=lines, ensemble=True, tta=("hflip",)))
    assert [row.method for row in table.rows] == [
        "L",
        "L, ensemble",
        "L, hflip at test time",
        "L, hflip at test time, ensemble",
        "One",
        "P",
        "P, hflip at test time",
    ]
    asked = LoffOptions(heads=("plain-*",), ensemble=True, tta=("hflip",))
    scores = evaluate_loff(stores[0].root, asked).scores
    where = stores[0].where
    assert [row.cells[where].metrics for row in table.rows[2:4]] == [s.metrics for s in scores]


def test_the_command_prints_markdown_or_json(stores):
    where = str(stores[0].root)
    run = CliRunner().invoke(app, ["table", "loff", where, "--line", "L=plain-*", "--json"])
    (row,) = json.loads(run.stdout)["rows"]
    assert row["cells"][where]["metrics"].keys() >= {"accuracy", "roc_auc_deviation"}
    assert row["image_size"] is None  # of features that no model here has made
    run = CliRunner().invoke(app, ["table", "loff", where, "--metrics", "accuracy"])
    assert run.stdout.startswith("| features | method | image | heads | accuracy |")
    run = CliRunner().invoke(app, ["table", "loff", where, "--metrics", "beauty"])
    assert run.exit_code == 2
    assert "no row has this metric: beauty" in run.stderr


def test_rows_that_would_be_called_the_same_keep_apart(tmp_path):
    """Heads of one name on two feature sets, whose backbones are not known."""
    store = store_of(tmp_path / "s.fungi", 0)
    write_block(store, "set2", "embeddings", store.arrays("set")["embeddings"].read(0, ROWS))
    for feature_set in ("set", "set2"):
        train(store, "linear", head="linear", feature_set=feature_set)
    assert [row.name for row in table_loff(store.root).rows] == ["linear", "linear"]
    table = table_loff(store.root, LoffTableOptions(lines=("A=linear",)))
    assert [row.features for row in table.rows] == ["set", "set2"]


@pytest.mark.parametrize(
    ("backbone", "patches", "head", "method"),
    [
        ({}, {"pool": 2}, "none", "LOFF + Pool"),
        ({}, {}, "hflip", "LOFF-TA"),
        ({"adapter": {"method": "vpt"}}, {"pool": 1}, "trivial", "VPT + LOFF-TA"),
        ({"adapter": {"method": "vpt"}}, {}, "linear", "VPT + linear"),
        ({"adapter": {"method": "full"}}, {}, "linear", "Unfrozen + linear"),
        ({"adapter": {"method": "mine"}}, {}, "none", "mine + LOFF"),
    ],
)
def test_a_method_is_called_by_head_features_and_adapter(
    backbone: Config, patches: Config, head: str, method: str
) -> None:
    """What a feature set's setup says of its backbone and pooling is in the name."""
    is_linear = head == "linear"
    config = {
        "head": {"kind": "linear" if is_linear else "vit-xs"},
        "options": {"augment": {"kind": "none" if is_linear else head}, "pool": 1},
    }
    assert method_of({"backbone": backbone, "patches": patches}, config) == method
