"""A random projection in the place of a PCA: drawn, stored, and fitted to nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.random_projection import GaussianRandomProjection

from feature_world import Notices, clustered, make_store
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.machine.context import Context
from fungistore.matrices.blocks import open_features
from fungistore.pca.options import PcaOptions
from fungistore.pca.random_map import RandomMap
from fungistore.pca.stage import fit_pca, load_pca
from fungistore.store.store import Store

RANDOM = PcaOptions(dim=12, reduction="random", seed=3, storage_dtype="float32", name="r")


def grown(root: Path, rows: int) -> Store:
    vectors, labels = clustered(60, 4, 30)
    return make_store(root, {"embeddings": vectors[:rows]}, labels[:rows])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Forty labelled rows of 30 numbers, in four clusters."""
    return grown(tmp_path / "s.fungi", 40)


def test_lengths_and_distances_are_kept_as_scikit_learns_keep_them() -> None:
    """On average over seeds, with the spread that scikit-learn's Gaussian projection has."""
    rows = clustered(12, 3, 40)[0]
    between = np.linalg.norm(rows[:6] - rows[6:], axis=1) ** 2

    def shares(mapped: np.ndarray) -> np.ndarray:
        return np.linalg.norm(mapped[:6] - mapped[6:], axis=1) ** 2 / between

    ours = np.array([shares(RandomMap.draw((), 40, 16, s).transform(rows)) for s in range(300)])
    oracles = [GaussianRandomProjection(16, random_state=seed) for seed in range(300)]
    theirs = np.array([shares(oracle.fit_transform(rows)) for oracle in oracles])
    assert ours.mean() == pytest.approx(1, abs=0.03)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.1)
    assert ours.std() == pytest.approx((2 / 16) ** 0.5, rel=0.1)  # of a chi-squared over 16


def test_coordinates_are_stored_and_read_back(store: Store) -> None:
    """As scikit-learn's own object would give them; the same command again has nothing to do."""
    done = fit_pca(store.root, RANDOM)
    assert (done.explained_variance, done.fit["rows"], done.rows) == (None, 0, 40)
    fitted = load_pca(store, "set", "r")
    assert isinstance(fitted, RandomMap)
    assert fitted.features == ("embeddings",)
    _, vectors = open_features(store).load()
    _, found = open_features(store, pca="r").load()
    np.testing.assert_allclose(found, fitted.to_sklearn().transform(vectors), atol=1e-6)
    drawn = RandomMap.draw(("embeddings",), 30, 12, 3).components
    np.testing.assert_allclose(fitted.components, drawn, rtol=1e-6)
    assert not np.allclose(RandomMap.draw((), 30, 12, 4).components, drawn)
    assert fit_pca(store.root, RANDOM).units_computed == 0


def test_it_knows_no_rows(store: Store) -> None:
    """What it was drawn beside changes nothing, new rows are mapped alike, no test row can leak."""
    said: list[str] = []
    before = fit_pca(store.root, RANDOM)
    after = fit_pca(grown(store.root, 60).root, RANDOM, context=Context(Notices(said)))
    assert (after.fingerprint, after.rows) == (before.fingerprint, 60)
    assert not [text for text in said if "fitted" in text]
    assert evaluate_knn(store.root, KnnOptions(pca="r", holdout=0.5, k=3)).scores
    fit_pca(store.root, PcaOptions(dim=4, name="leaks", fit_split="all"))
    with pytest.raises(MismatchError, match="fitted on"):
        evaluate_knn(store.root, KnnOptions(pca="leaks", holdout=0.5, k=3))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dim": 31}, "--dim from 1 to 30"),
        ({"holdout": 0.2}, "fitted to no rows"),
        ({"fit_split": "all"}, "fitted to no rows"),
    ],
)
def test_what_reduces_nothing_or_fits_nothing_is_refused(
    store: Store, changes: dict[str, float | str], said: str
) -> None:
    """More numbers than there are, or rows to fit on."""
    with pytest.raises(UsageError) as caught:
        fit_pca(store.root, PcaOptions(**{"dim": 12, "reduction": "random", **changes}))  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_another_kind_or_seed_under_the_same_name_is_refused(store: Store) -> None:
    fit_pca(store.root, RANDOM)
    for other in (
        PcaOptions(dim=12, reduction="random", seed=4, storage_dtype="float32", name="r"),
        PcaOptions(dim=12, storage_dtype="float32", name="r"),
    ):
        with pytest.raises(MismatchError, match="other settings"):
            fit_pca(store.root, other)


def test_evaluations_reduce_at_random_too(store: Store) -> None:
    """By the seed, of fewer training rows than numbers; to no fewer numbers it is left out."""
    asked = {"holdout": 0.5, "k": 3, "reduction": "random"}
    one = evaluate_knn(store.root, KnnOptions(pca_dims=(24,), **asked))  # type: ignore[arg-type]
    (score,) = one.scores
    assert (score.dim, score.protocol["random"]) == (24, 24)  # a PCA of 20 rows had no 24
    said: list[str] = []
    context = Context(Notices(said))
    whole = evaluate_knn(store.root, KnnOptions(pca_dims=(30,), **asked), context=context)  # type: ignore[arg-type]
    assert whole.scores[0].dim == 30
    assert any("no random projection to 30" in text for text in said)


def test_seeds_repeat_a_random_projection_of_the_same_rows(store: Store) -> None:
    """Each run is that of its seed alone; a PCA of the same rows is the same with every seed."""
    one = KnnOptions(holdout=0.5, split_seed=1, k=3, reduction="random", pca_dims=(2,))
    runs = [evaluate_knn(store.root, replace(one, seed=seed)).scores[0] for seed in (5, 6, 7)]
    alone = [run.metrics["accuracy"] for run in runs]
    (score,) = evaluate_knn(store.root, replace(one, seed=5, seeds=3)).scores
    assert score.metrics["accuracy"] == pytest.approx(np.mean(alone))
    assert len(set(alone)) > 1
    with pytest.raises(UsageError, match="seeds"):
        evaluate_knn(store.root, replace(one, reduction="pca", seeds=3))


def test_a_random_projection_of_no_width_is_refused() -> None:
    """It would reduce nothing, without a word."""
    for changes in ({}, {"pca": "r"}):
        with pytest.raises(UsageError) as caught:
            KnnOptions(reduction="random", **changes)  # type: ignore[arg-type]
        assert "--pca-dim" in str(caught.value)
