"""The PCA is scikit-learn's, fitted in one pass, resumable, and never sees test rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fungi_cli.main import app
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store
from fungistore.errors import MismatchError, StoppedError, UsageError
from fungistore.machine.context import Context
from fungistore.matrices.blocks import open_features
from fungistore.matrices.splits import choose_split
from fungistore.pca.components import fit
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca, load_pca
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.mismatch import refuse_mismatch
from fungistore.store.store import Store

ROWS, DIM = 150, 12


@pytest.fixture
def store(tmp_path):
    return grown(tmp_path / "s.fungi", ROWS)


def grown(root, rows):
    vectors, labels = clustered(300, 3, DIM, seed=4)
    arrays = {"embeddings": vectors[:rows], "gradients/kl": vectors[:rows, ::-1].copy()}
    return make_store(root, arrays, labels[:rows])


def files(store):
    return {
        path.relative_to(store.root): path.read_bytes()
        for path in store.root.rglob("*")
        if path.is_file() and ".locks" not in path.parts
    }


@pytest.mark.parametrize(("rows", "dim"), [(200, 5), (200, 12), (9, 8), (12, 11)])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_it_equals_scikit_learns_full_svd(rows, dim, shift):
    vectors = (clustered(rows, 3, 12, seed=1)[0] + shift).astype(np.float32)
    oracle = PCA(dim, svd_solver="full").fit(vectors.astype(np.float64))
    found = fit(("embeddings",), [vectors[:7], vectors[7:]], dim).to_sklearn()
    for name in ("mean_", "components_", "explained_variance_", "explained_variance_ratio_"):
        np.testing.assert_allclose(getattr(found, name), getattr(oracle, name), atol=1e-7)
    np.testing.assert_allclose(found.singular_values_, oracle.singular_values_, atol=1e-5)
    assert found.noise_variance_ == pytest.approx(oracle.noise_variance_, abs=1e-7)
    np.testing.assert_allclose(
        found.inverse_transform(found.transform(vectors.astype(np.float64))),
        oracle.inverse_transform(oracle.transform(vectors.astype(np.float64))),
        atol=1e-6,
    )


def test_the_blocks_of_a_pass_change_nothing_but_rounding():
    vectors = clustered(500, 3, 12)[0]
    whole = fit(("e",), [vectors], 6)
    parts = fit(("e",), np.array_split(vectors, 23), 6)
    np.testing.assert_allclose(parts.components, whole.components, atol=1e-10)


def test_each_components_largest_entry_is_positive():
    components = fit(("e",), [clustered(100, 3, 12)[0]], 12).components
    assert (components[np.arange(12), np.abs(components).argmax(axis=1)] > 0).all()


def test_too_few_rows_for_the_components_are_refused():
    with pytest.raises(ValueError, match="5 rows of 12 numbers cannot give 5"):
        fit(("e",), [clustered(5, 2, 12)[0]], 5)


def test_coordinates_are_written_as_a_feature(store):
    result = fit_pca(store.root, PcaOptions(dim=6, name="p", storage_dtype="float32"))
    _, vectors = open_features(store).load()
    oracle = PCA(6, svd_solver="full").fit(vectors.astype(np.float64))
    rows, found = open_features(store, pca="p").load()
    assert len(rows) == ROWS
    np.testing.assert_allclose(found, oracle.transform(vectors.astype(np.float64)), atol=1e-5)
    assert result.explained_variance == pytest.approx(oracle.explained_variance_ratio_.sum())
    assert load_pca(store, "set", "p").features == ("embeddings", "kl")


def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path):
    one, two = grown(tmp_path / "one", ROWS), grown(tmp_path / "two", ROWS)
    options = PcaOptions(dim=6, name="p")
    fit_pca(one.root, options)
    calls = iter(range(100))
    with pytest.raises(StoppedError):
        fit_pca(two.root, options, context=Context(stop=lambda: next(calls) >= 4))
    done = len(two.arrays("set")["pca/p"].commits())
    assert 0 < done < 10
    assert fit_pca(two.root, options).units_computed == 10 - done
    ours, theirs = files(two), files(one)
    assert {name for name in ours if ours[name] != theirs.get(name)} <= {
        two.root.joinpath("store.json").relative_to(two.root),
        *(name for name in ours if name.suffix == ".parquet"),
    }
    assert fit_pca(two.root, options).units_computed == 0


def test_growth_transforms_new_rows_and_keeps_the_fit(tmp_path):
    store = grown(tmp_path / "s", ROWS)
    options = PcaOptions(dim=6, name="p")
    before = fit_pca(store.root, options)
    fitted = load_pca(store, "set", "p")
    store = grown(store.root, 300)
    said = []
    after = fit_pca(store.root, options, context=Context(Notices(said)))
    assert after.rows == 300
    assert after.units_computed == 10  # the partly filled one, and nine new ones
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(load_pca(store, "set", "p").components, fitted.components)
    assert any("fitted on 150 rows, there are 300 now" in text for text in said)


def test_test_rows_never_reach_the_fit(tmp_path):
    """Changing every held-out row changes no component; changing one training row does."""
    vectors, labels = clustered(100, 2, 8)

    def components(vectors, name):
        store = make_store(tmp_path / name, {"embeddings": vectors}, labels)
        fit_pca(store.root, PcaOptions(dim=4, name="p", holdout=0.3, seed=2))
        return load_pca(store, "set", "p").components, choose_split(store, holdout=0.3, seed=2)

    original, split = components(vectors, "a")
    spoiled = vectors.copy()
    spoiled[split.test] += 100 * np.random.default_rng(0).normal(size=(len(split.test), 8))
    assert np.array_equal(components(spoiled, "b")[0], original)
    spoiled[split.train[0]] *= -1
    assert not np.array_equal(components(spoiled, "c")[0], original)


def test_unusable_rows_are_left_out_of_the_fit_and_stay_nan(tmp_path):
    vectors, labels = clustered(60, 3, 8)
    vectors[[4, 30]] = np.nan
    store = make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    result = fit_pca(store.root, PcaOptions(dim=4, name="p"))
    assert result.unreadable == 2
    assert result.fit["rows"] == 58
    assert np.isnan(open_features(store, pca="p").read(0, 60)).any(axis=1).nonzero()[
        0
    ].tolist() == [
        4,
        30,
    ]


@pytest.mark.parametrize("change", [{"dim": 5}, {"features": ("kl",)}, {"holdout": 0.5}])
def test_other_settings_under_one_name_are_refused(store, change):
    fit_pca(store.root, PcaOptions(dim=6, name="p"))
    with pytest.raises(MismatchError) as caught:
        fit_pca(store.root, PcaOptions(**({"dim": 6, "name": "p"} | change)))
    assert next(iter(change)) in str(caught.value.found) or "fit" in str(caught.value.found)
    fit_pca(store.root, PcaOptions(**({"dim": 6, "name": "p"} | change)), restart=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dim": 25}, "--dim from 1 to 24"),
        ({"dim": 0}, "a whole number of 1 or more"),
        ({"fit_split": "odd"}, "all"),
        ({"features": ("dino",)}, "embeddings, kl"),
        ({"name": "../x", "dim": 2}, "letters, digits"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_nothing_written(store, options, text):
    before = files(store)
    with pytest.raises(UsageError) as caught:
        fit_pca(store.root, PcaOptions(**options))
    assert text in str(caught.value.expected)
    assert files(store) == before


def test_the_default_dim_gives_way_to_the_data_and_says_so(store):
    said = []
    assert fit_pca(store.root, PcaOptions(), context=Context(Notices(said))).dim == 24
    assert any("--dim 24 instead of 512" in text for text in said)
    assert any('no split "train"' in text for text in said)


def test_an_extraction_may_join_the_set_afterwards(store):
    fit_pca(store.root, PcaOptions(dim=6, name="p"))
    config = {"schema": SCHEMA_VERSION[0], "layout": {"unit_rows": 16, "codec": "none"}}
    refuse_mismatch(Store.open(store.root), "set", {"gradients/dino": config})


def test_the_command_prints_one_json_object(store):
    run = CliRunner().invoke(app, ["pca", str(store.root), "--dim", "6", "--json"])
    assert run.exit_code == 0
    document = json.loads(run.stdout)
    assert document["name"] == "embeddings+kl-6"
    assert document["units"] == {"done": 10, "total": 10, "computed": 10}
    again = CliRunner().invoke(app, ["pca", str(store.root), "--dim", "6"])
    assert "nothing to do" in again.stderr
    assert CliRunner().invoke(app, ["pca", str(store.root), "--dim", "99"]).exit_code == 2
