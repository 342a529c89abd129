"""Heads of several stores in one table, in the order of LOFF-TA's."""

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
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import Augmentation, TrainOptions
from fungistore.loff.train import train_loff
from fungistore.tables.loff import table_loff
from fungistore.tables.methods import method_of, place_of
from fungistore.tables.options import LoffTableOptions

ROWS = 24


def store_of(path, seed):
    random = np.random.default_rng(seed)
    patches = random.normal(size=(ROWS, 2, 2, 4)).astype(np.float16)
    patches[::2, 0] += 2
    blocks = {"patches": patches, "embeddings": patches.mean(axis=(1, 2))}
    return make_store(path, blocks, ["ab"[row % 2] for row in range(ROWS)], unit_rows=8)


def train(store, name, head="linear", **changes):
    options = TrainOptions(
        head=head, name=name, epochs=1, batch_size=16, dtype="float32", split_seed=0, **changes
    )
    train_loff(store.root, options)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores: heads of two seeds each, and in the first one on feature maps."""
    root = tmp_path_factory.mktemp("tables")
    made = [store_of(root / f"{name}.fungi", seed) for seed, name in enumerate("pq")]
    for store in made:
        for seed in (0, 1):
            train(store, f"linear-{seed}", seed=seed)
    train(made[0], "map", "attn-pool", augment=Augmentation(kind="trivial"))
    return made


def test_heads_that_differ_in_seeds_are_a_row_with_the_papers_name(stores):
    """The numbers are those of `eval loff`; a cell of a store without such heads is empty."""
    first, second = stores
    table = table_loff([first.root, second.root], LoffTableOptions(metrics=("accuracy", "roc_auc")))
    assert [(row.method, row.name) for row in table.rows] == [
        ("Frozen + linear", "linear-* (2)"),
        ("LOFF-TA", "map"),
    ]
    linear = table.rows[0]
    for store in stores:
        (score,) = evaluate_loff(store.root, LoffOptions(heads=("linear-*",))).scores
        assert linear.cells[store.where].metrics == score.metrics
        assert linear.cells[store.where].spread == score.spread
    lines = table.to_markdown().splitlines()
    assert lines[0].count("p, accuracy") == lines[0].count("q, roc auc") == 1
    cells = linear.cells[first.where].metrics
    shown = f"{100 * cells['accuracy']:.1f} ± {100 * cells['accuracy_deviation']:.1f}"
    assert lines[2].split(" | ")[4] == shown
    assert lines[3].split(" | ")[6] == "-"  # the second store has no head on feature maps
    assert len({line.count("|") for line in lines}) == 1
    speed = linear.speed.training
    assert f" {speed.images_per_second:.0f} | " in lines[2]
    assert f"{speed.peak_rss_bytes / 1e9:.2f}" in lines[2].split(" | ")[-1]


def test_lines_have_titles_and_patterns(stores):
    """Rows stand in the order of the lines."""
    options = LoffTableOptions(lines=("Mine=set/linear-?", "A|B=linear-0"))
    table = table_loff(stores[0].root, options)
    assert [(row.method, row.cells[stores[0].where].heads) for row in table.rows] == [
        ("Mine", ("linear-0", "linear-1")),
        ("A|B", ("linear-0",)),
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
    options = LoffTableOptions(lines=("M=map", "L=linear-*"), ensemble=True, tta=("hflip",))
    table = table_loff(stores[0].root, options)
    titles = ["M", "M, hflip at test time", "L", "L, ensemble"]
    assert [row.method for row in table.rows] == titles
    where = stores[0].where
    flipped = evaluate_loff(stores[0].root, LoffOptions(heads=("map",), tta=("hflip",)))
    both = evaluate_loff(stores[0].root, LoffOptions(heads=("linear-*",), ensemble=True))
    assert table.rows[1].cells[where].metrics == flipped.scores[0].metrics
    assert table.rows[3].cells[where].metrics == both.scores[1].metrics


def test_the_command_prints_markdown_or_json(stores):
    where = str(stores[0].root)
    run = CliRunner().invoke(app, ["table", "loff", where, "--line", "L=linear-*", "--json"])
    (row,) = json.loads(run.stdout)["rows"]
    assert row["cells"][where]["metrics"].keys() >= {"accuracy", "roc_auc_deviation"}
    assert row["image_size"] is None  # of features that no model here has made
    line = ["--line", "L=linear-0"]
    run = CliRunner().invoke(app, ["table", "loff", where, *line, "--metrics", "accuracy"])
    assert run.stdout.startswith("| features | method | image | heads | accuracy |")
    run = CliRunner().invoke(app, ["table", "loff", where, *line, "--metrics", "beauty"])
    assert run.exit_code == 2
    assert "no row has this metric: beauty" in run.stderr


def test_rows_that_would_be_called_the_same_keep_apart(tmp_path):
    """Heads of one name on two feature sets, whose backbones are not known."""
    store = store_of(tmp_path / "s.fungi", 0)
    write_block(store, "set2", "embeddings", store.arrays("set")["embeddings"].read(0, ROWS))
    for feature_set in ("set", "set2"):
        train(store, "linear", feature_set=feature_set)
    assert [row.name for row in table_loff(store.root).rows] == ["linear", "linear"]
    table = table_loff(store.root, LoffTableOptions(lines=("A=linear",)))
    assert [row.features for row in table.rows] == ["set", "set2"]


def test_methods_stand_as_in_the_papers_tables():
    """Frozen backbones, then each adapter; what a comma adds stays beside its row."""
    ordered = [
        *("Frozen + linear", "Frozen + linear, images", "LOFF", "LOFF-TA", "LOFF-TA, ensemble"),
        *("LOFF + Pool", "LOFF-TA + Pool", "Unfrozen + linear", "Unfrozen + LOFF-TA"),
        *("VPT", "VPT + linear", "VPT + LOFF", "VPT + LOFF-TA + Pool", "SSF", "AdaptFormer"),
        *("LoRA", "mine", "mine + LOFF", "other"),
    ]
    assert sorted(reversed(ordered[:4]), key=place_of) == ordered[:4]
    assert sorted(ordered, key=place_of) == ordered


@pytest.mark.parametrize("setting", ["noise", "brightness", "mixup", "cutmix", "drop_tokens"])
def test_heads_of_sequences_are_augmented_without_moving_cells(setting: str) -> None:
    """Noise, or whatever else varies tensors, makes LOFF a LOFF-TA, as its default name says."""
    for value, method in ((0.0, "LOFF"), (0.1, "LOFF-TA")):
        options = {"augment": {"kind": "none", setting: value}, "pool": 1}
        assert method_of({}, {"head": {"kind": "vit-xs"}, "options": options}) == method


@pytest.mark.parametrize(
    ("backbone", "patches", "head", "method"),
    [
        ({}, {"pool": 2}, "none", "LOFF + Pool"),
        ({}, {}, "hflip", "LOFF-TA"),
        ({"adapter": {"method": "vpt"}}, {"pool": 1}, "trivial", "VPT + LOFF-TA"),
        ({"adapter": {"method": "vpt"}}, {}, "linear", "VPT + linear"),
        ({"adapter": {"method": "full"}}, {}, "linear", "Unfrozen + linear"),
        ({"adapter": {"method": "mine"}}, {}, "none", "mine + LOFF"),
        ({"adapter": {"method": "linear"}}, {}, "none", "LOFF"),
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
