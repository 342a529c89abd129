"""A seed of the method and a seed of the rows: each decides what it says, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fungistore as fungi
from feature_world import clustered, make_store
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation.intervals import over_runs
from fungistore.evaluation.options import TableOptions
from fungistore.matrices.choices import RepeatChoice, Run

ROWS = 300
TEST = ["test" if row % 5 == 0 else "train" for row in range(ROWS)]
VAL = [["train", "train", "val", "test", "train"][row % 5] for row in range(ROWS)]


def store_of(root: Path, splits: list[str] | None = None) -> Path:
    vectors, labels = clustered(ROWS, 6, 10, noise=3.0)
    other, _ = clustered(ROWS, 6, 10, seed=1, noise=3.0)
    arrays = {"embeddings": vectors, "gradients/kl": other}
    return make_store(root, arrays, labels, splits, unit_rows=128).root


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Without splits, with one to test on, and with one to validate on, too."""
    root = tmp_path_factory.mktemp("stores")
    splits = {"none": None, "test": TEST, "val": VAL}
    return {name: store_of(root / name, own) for name, own in splits.items()}


def metrics(store: Path, options: Any) -> list[Any]:
    return [score.metrics for score in options.evaluate(store).scores]


@pytest.mark.parametrize(
    ("store", "options", "expected"),
    [
        ("none", fungi.KnnOptions(k=5, shots=5, seeds=3), {"accuracy": 29 / 90}),
        ("none", fungi.KnnOptions(k=5, holdout=0.3, seeds=3, seed=4), {"accuracy": 11 / 30}),
        (
            "test",
            fungi.KnnOptions(k=5, shots=5, shot_rule="proportional", seeds=2, seed=3),
            {"accuracy": 0.24166667, "roc_auc": 0.56025},
        ),
        (
            "none",
            fungi.LinearOptions(holdout=0.3, seed=5, seeds=2, pca_dims=(6,)),
            {"accuracy": 11 / 30, "roc_auc": 0.776667},
        ),
        ("val", fungi.LinearOptions(), {"accuracy": 7 / 15, "roc_auc": 0.824667}),
        ("none", fungi.RetrievalOptions(queries=20, seed=4), {"map": 0.275125, "mp@10": 0.365}),
        ("none", fungi.CompareOptions(holdout=0.3, seed=2), {"accuracy": 13 / 30}),
        ("none", fungi.ClusterOptions(seed=3), {"ari": 0.045051, "nmi": 0.088418}),
    ],
)
def test_what_names_no_split_seed_has_the_numbers_of_before_there_was_one(
    stores: dict[str, Path], store: str, options: Any, expected: dict[str, float]
) -> None:
    """Written down from the commit before it: 93c2784."""
    found = metrics(stores[store], options)[-1]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("store", "options"),
    [
        ("none", fungi.KnnOptions(k=5, holdout=0.3)),
        ("test", fungi.KnnOptions(k=5, shots=3)),
        ("test", fungi.KnnOptions(k=5, shots=3, shot_rule="proportional")),
        ("test", fungi.LinearOptions(features=("kl",))),
        ("val", fungi.LinearOptions(shots=2)),
        ("none", fungi.CompareOptions(k=5)),
        ("none", fungi.RetrievalOptions(queries=20)),
    ],
)
def test_the_split_seed_alone_chooses_the_rows(
    stores: dict[str, Path], store: str, options: Any
) -> None:
    """Held out, validation, shots or queries: any seed has the rows of the split seed."""
    here = stores[store]
    expected = replace(options, seed=7).evaluate(here).scores
    assert replace(options, seed=9, split_seed=7).evaluate(here).scores == expected
    assert replace(options, seed=7, split_seed=9).evaluate(here).scores != expected


def test_a_pca_has_the_rows_of_the_split_seed_and_so_has_its_evaluation(tmp_path: Path) -> None:
    """The two take the same flags, so that no test row is in the fit."""
    root = store_of(tmp_path / "s")
    asked = fungi.PcaOptions(dim=4, holdout=0.3, seed=5, split_seed=2, name="p")
    made = fungi.fit_pca(root, asked)
    fungi.evaluate_knn(root, fungi.KnnOptions(pca="p", holdout=0.3, seed=8, split_seed=2, k=5))
    with pytest.raises(MismatchError, match="fitted on") as caught:
        fungi.evaluate_knn(root, fungi.KnnOptions(pca="p", holdout=0.3, seed=5, k=5))
    assert "--split-seed" in str(caught.value.hint)
    same = fungi.fit_pca(root, replace(asked, seed=2, split_seed=None))
    assert (same.fingerprint, same.units_computed) == (made.fingerprint, 0)


def test_runs_are_pairs_or_every_seed_with_every_choice_of_rows() -> None:
    """Each seed draws its own rows where nothing is said of them: as it always was."""

    def pairs(**settings: int) -> list[tuple[int, int]]:
        return [(run.seed, run.rows_seed) for run in RepeatChoice(**settings).runs]

    assert pairs() == [(0, 0)]
    assert pairs(seed=4, seeds=3) == [(4, 4), (5, 5), (6, 6)]
    assert pairs(seed=4, split_seed=1, seeds=2) == [(4, 1), (5, 1)]
    assert pairs(seed=4, split_seeds=3) == [(4, 4), (4, 5), (4, 6)]
    assert pairs(seed=4, seeds=2, split_seeds=1) == [(4, 4), (5, 4)]
    grid = {"seed": 4, "seeds": 2, "split_seed": 8, "split_seeds": 3}
    assert sorted(pairs(**grid)) == list(product((4, 5), (8, 9, 10)))
    assert RepeatChoice(**grid).seeds_used == {"seeds": [4, 5], "split_seeds": [8, 9, 10]}
    assert RepeatChoice(seeds=2).seeds_used == {"seeds": [0, 1]}
    assert RepeatChoice().runs == (Run(0, 0),)


@pytest.mark.parametrize("options", [fungi.KnnOptions(k=5), fungi.LinearOptions(max_iter=50)])
def test_split_seeds_average_over_choices_of_rows(
    stores: dict[str, Path], options: TableOptions
) -> None:
    """The mean and the deviation of the runs one by one; the protocol has the seeds."""
    asked = replace(options, holdout=0.3, split_seed=2, split_seeds=3)
    done = asked.evaluate(stores["none"])
    alone = [
        metrics(stores["none"], replace(options, holdout=0.3, split_seed=seed))[0]["accuracy"]
        for seed in (2, 3, 4)
    ]
    (score,) = done.scores
    assert score.metrics["accuracy"] == pytest.approx(np.mean(alone))
    assert score.metrics["accuracy_deviation"] == pytest.approx(np.std(alone, ddof=1))
    assert (done.protocol["seeds"], done.protocol["split_seeds"]) == ([0], [2, 3, 4])
    assert done.protocol["split"]["seed"] == 2


@pytest.mark.parametrize(
    ("store", "options", "flag"),
    [
        ("test", fungi.KnnOptions(k=5, split_seeds=2), "split-seeds"),
        ("test", fungi.KnnOptions(k=5, split_seeds=2, shots=5, shot_rule="first"), "split-seeds"),
        ("test", fungi.KnnOptions(k=5, split_seeds=2, shots=(40, 99)), "split-seeds"),
        ("val", fungi.LinearOptions(seeds=2), "seeds"),
        ("test", fungi.LinearOptions(seeds=2, strengths=(1e-4,)), "seeds"),
        ("none", fungi.KnnOptions(k=5, seeds=2, split_seed=0), "seeds"),
        ("none", fungi.LinearOptions(seeds=2, split_seeds=2), "seeds"),
    ],
)
def test_runs_that_would_all_be_the_same_are_refused(
    stores: dict[str, Path], store: str, options: TableOptions, flag: str
) -> None:
    """As where nothing is drawn, where all rows are taken, or where only rows are drawn."""
    with pytest.raises(UsageError, match=rf"cannot use this value of {flag}\n") as caught:
        options.evaluate(stores[store])
    assert flag in str(caught.value.hint)


def test_choices_of_rows_to_validate_on_are_runs(stores: dict[str, Path]) -> None:
    """Where only these are drawn, as a probe draws them, --split-seeds repeats it."""
    options = fungi.LinearOptions(split_seeds=2, shots=("all",))
    (score,) = options.evaluate(stores["test"]).scores
    assert len(score.protocol["runs"]) == 2


def test_a_number_of_shots_is_told_as_a_number(stores: dict[str, Path]) -> None:
    """Several of them are a list."""
    for shots, said in (((5,), 5), ((5, "all"), [5, "all"])):
        done = fungi.KnnOptions(k=3, shots=shots).evaluate(stores["test"])
        assert done.protocol["shots"] == said


def test_of_a_curve_only_what_differs_is_repeated(stores: dict[str, Path]) -> None:
    """All training rows are the same for every seed: one run, with its interval."""
    options = fungi.KnnOptions(k=5, shots=("all", 5, 99), split_seeds=3)
    every, few, too_many = options.evaluate(stores["test"]).scores
    assert len(few.protocol["runs"]) == 3
    assert few.metrics["accuracy_deviation"] > 0
    for score in (every, too_many):
        assert "runs" not in score.protocol
        assert score.metrics == metrics(stores["test"], fungi.KnnOptions(k=5))[0]


def test_banks_are_repeated_over_choices_of_shots_alone() -> None:
    """Without shots all choices are the same, and the seed decides the interval alone."""
    with pytest.raises(UsageError, match=r"split-seeds\n"):
        fungi.SegmentationOptions(split_seeds=2)
    with pytest.raises(UsageError, match=r"of seeds\n"):
        fungi.SegmentationOptions(seeds=2, shots=4, split_seed=1)
    assert len(fungi.SegmentationOptions(split_seeds=2, shots=4).runs) == 2


def test_seeds_of_any_size_cluster(stores: dict[str, Path]) -> None:
    """faiss takes 32 bits; longer ones are seeds of their own, and none of them is 0's."""
    seeds = (0, 2**31 - 1, 2**31, 2**32, 2**40, -(2**70))
    assert len({str(metrics(stores["none"], fungi.ClusterOptions(seed=s))) for s in seeds}) == 6


def test_clusters_are_averaged_over_seeds_of_k_means(stores: dict[str, Path]) -> None:
    """Mean and deviation of the runs one by one."""
    options = fungi.ClusterOptions(combinations="one", nredo=1, niter=3)
    alone = [metrics(stores["none"], replace(options, seed=seed))[0] for seed in (4, 5, 6)]
    done = replace(options, seed=4, seeds=3).evaluate(stores["none"])
    expected, spread = over_runs(alone, {})
    assert expected["ari_deviation"] > 0
    assert done.scores[0].metrics == expected
    assert done.scores[0].spread == spread
    assert (done.protocol["seeds"], len(done.scores[0].protocol["runs"])) == ([4, 5, 6], 3)


def test_an_index_below_chance_has_its_mean_in_its_interval() -> None:
    """The adjusted Rand index is below 0 where clusters are worse than chance."""
    means, spread = over_runs([{"ari": -0.2}, {"ari": -0.1}, {"ari": -0.15}], {})
    low, high = spread["ari"]
    assert low < means["ari"] < high
