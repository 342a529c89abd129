"""The extraction stage end to end: what it writes, how it resumes and grows, what it refuses."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import zarr
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config

from fungistore.errors import FungiError, ImageError, MismatchError, StoppedError, UsageError
from fungistore.extraction.measure import estimate
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.machine.context import Context
from fungistore.objectives.dino import DINO
from fungistore.objectives.kl import KL
from fungistore.objectives.simclr import SimCLR
from fungistore.report import Silent
from fungistore.store.store import Store
from tiny_world import TINY, needs_vnni, write_images

SMALL = {
    "kl": KL(head_dim=0),
    "dino": DINO(local_crops=2, head_dim=32, augment="full"),
    "simclr": SimCLR(stride_scale=2, negatives=3),
}
ALL = ("embeddings", "kl", "dino", "simclr", "patches")


def every_feature(weights: Path, workers: int | None = None) -> ExtractOptions:
    """Every feature, at sizes that make a run take a second."""
    return ExtractOptions(
        model=TINY,
        weights=str(weights),
        image_size=64,
        features=ALL,
        dtype="float32",
        batch_size=4,
        unit_rows=8,
        storage_dtype="float32",
        objectives=SMALL,
        workers=workers,
    )


@pytest.fixture
def options(tiny_weights: Path) -> ExtractOptions:
    return every_feature(tiny_weights)


@pytest.fixture(scope="module")
def whole(same_images: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `same_images` that these options make in one run, which no test changes."""
    root = tmp_path_factory.mktemp("whole") / "whole.fungi"
    extract(str(same_images), root, every_feature(tiny_weights, workers=1))
    return root


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """The same, of the test alone."""
    return Path(shutil.copytree(whole, tmp_path / "s.fungi"))


def read(store: Path) -> dict[str, NDArray[np.floating]]:
    """All arrays of the tiny model's feature set, through plain zarr."""
    group = zarr.open_group(store / "features.zarr" / TINY, mode="r")
    names = [
        name for name, member in group.members(max_depth=None) if isinstance(member, zarr.Array)
    ]
    return {name: np.asarray(group[name][:]) for name in names}


def assert_same(first: Path, second: Path) -> None:
    ours, theirs = read(first), read(second)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def record_times(store: Path) -> dict[Path, int]:
    """When each commit record and chunk was written."""
    files = [*store.glob("commits/**/*.json"), *store.glob("features.zarr/**/c/**/*")]
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def stop_after(questions: int) -> Callable[[], bool]:
    """A stop request that comes true after it was asked for so often, a few times a batch."""
    left = iter(range(questions))
    return lambda: next(left, None) is None


def test_embeddings_and_patches_equal_timm(
    same_images: Path, whole: Path, tiny_weights: Path
) -> None:
    """Stored embeddings and patch tensors are those of timm's model under timm's own transform."""
    model = timm.create_model(TINY, pretrained=False, num_classes=0, img_size=64).eval()
    state = load_file(tiny_weights)
    state = timm.models.vision_transformer.checkpoint_filter_fn(state, model)
    model.load_state_dict(state)
    config = resolve_data_config({"img_size": 64}, model=model)
    transform = create_transform(**config)
    found = read(whole)
    rows = Store.open(whole).samples.rows(0, 24)
    for row in (0, 7, 23):
        pixels = transform(Image.open(same_images / rows[row]["id"]))[None]
        with torch.no_grad():
            tokens = model.forward_features(pixels)
            embedding = model.forward_head(tokens)[0]
        np.testing.assert_allclose(found["embeddings"][row], embedding, atol=1e-5)
        grid = tokens[0, 1:].reshape(4, 4, -1).numpy()
        np.testing.assert_allclose(found["patches"][row], grid, atol=1e-2, rtol=1e-3)  # float16


def test_gradient_features_are_unit_vectors_with_norms_beside_them(whole: Path) -> None:
    """Gradient features have length one; their norms are positive and finite."""
    found = read(whole)
    for name in ("kl", "dino", "simclr"):
        np.testing.assert_allclose(np.linalg.norm(found[f"gradients/{name}"], axis=1), 1, atol=1e-5)
        assert (found[f"norms/{name}"] > 0).all()
        assert np.isfinite(found[f"norms/{name}"]).all()


def test_samples_have_labels_and_splits(tmp_path: Path, options: ExtractOptions) -> None:
    """Class folders become labels in sorted order, split folders splits, and the map is stored."""
    for split in ("train", "val"):
        for label in ("b", "a"):
            write_images(tmp_path / "data" / split / label, 2)
    extract(
        str(tmp_path / "data"), tmp_path / "s.fungi", replace(options, features=("embeddings",))
    )
    store = Store.open(tmp_path / "s.fungi")
    assert store.manifest.labels == ("a", "b")
    rows = store.samples.rows(0, 8)
    assert [row["id"] for row in rows][:2] == ["train/a/000.jpg", "train/a/001.jpg"]
    assert [row["label"] for row in rows] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [row["split"] for row in rows] == ["train"] * 4 + ["val"] * 4


def test_a_stopped_run_continues_to_the_same_store(
    same_images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Stopped every few batches and run again, the store ends equal, and no unit is redone."""
    interrupted = tmp_path / "interrupted.fungi"
    committed: dict[Path, int] = {}
    for _ in range(20):
        try:
            extract(str(same_images), interrupted, options, context=Context(stop=stop_after(24)))
            break
        except StoppedError as error:
            assert "same command" in str(error)
            times = record_times(interrupted)
            assert all(times[path] == time for path, time in committed.items())
            committed = times
    else:
        pytest.fail("the run never finished")
    assert committed, "no stop came after a commit"
    assert_same(whole, interrupted)


def test_workers_and_order_of_runs_change_nothing(
    same_images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Another number of threads gives the same bits, and so does extracting feature by feature."""
    for feature in reversed(ALL):
        one = replace(options, features=(feature,), workers=4)
        extract(str(same_images), tmp_path / "single.fungi", one)
    assert_same(whole, tmp_path / "single.fungi")


def test_a_missing_unit_alone_is_made_anew(
    same_images: Path, store: Path, options: ExtractOptions
) -> None:
    """A unit whose record or chunk is gone is recomputed to the same bits; others are untouched."""
    before = read(store)
    (store / "commits" / TINY / "embeddings" / "00000001.json").unlink()
    (store / "features.zarr" / TINY / "gradients" / "kl" / "c" / "2" / "0").unlink()
    times = record_times(store)
    result = extract(str(same_images), store, options)
    assert (result.units_computed, result.images_computed) == (2, 16)
    now = record_times(store)
    rewritten = {path.relative_to(store).as_posix() for path in now if now[path] != times.get(path)}
    assert rewritten == {
        f"commits/{TINY}/embeddings/00000001.json",
        f"features.zarr/{TINY}/embeddings/c/1/0",
        f"commits/{TINY}/gradients/kl/00000002.json",
        f"features.zarr/{TINY}/gradients/kl/c/2/0",
    }
    for name, array in read(store).items():
        np.testing.assert_array_equal(array, before[name])


def test_limit_is_a_prefix_that_a_later_run_extends(
    same_images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """--limit 10, then the whole: whole units keep their bits, the partial one is completed."""
    store = tmp_path / "s.fungi"
    first = extract(str(same_images), store, replace(options, limit=10))
    assert (first.samples, first.units_total) == (10, 2)
    early = read(store)
    times = record_times(store)
    second = extract(str(same_images), store, options)
    assert second.images_computed == 14
    late = read(store)
    for name, array in early.items():
        np.testing.assert_array_equal(array, late[name][:10], err_msg=name)
    full_units = [path for path in times if "/c/0" in str(path) or path.stem == "00000000"]
    assert full_units
    assert all(record_times(store)[path] == times[path] for path in full_units)
    for name, array in read(whole).items():
        np.testing.assert_allclose(late[name], array, atol=2e-3, err_msg=name)


def test_a_grown_source_appends_rows(images: Path, tmp_path: Path, options: ExtractOptions) -> None:
    """New images, also ones that sort before the others, come after the known rows."""
    store = tmp_path / "s.fungi"
    extract(str(images), store, options)
    early = read(store)
    negatives = [path.read_bytes() for path in store.glob("setups/*/*.safetensors")]
    write_images(images / "ant", 3, seed=9)
    result = extract(str(images), store, options)
    assert (result.samples, result.images_computed) == (27, 3)
    opened = Store.open(store)
    assert [row["id"] for row in opened.samples.rows(24, 27)] == [
        f"ant/00{i}.jpg" for i in range(3)
    ]
    assert opened.manifest.labels == ("cat", "dog", "ant")
    for name, array in read(store).items():
        np.testing.assert_array_equal(array[:24], early[name], err_msg=name)
        assert np.isfinite(array[24:]).all()
    assert [p.read_bytes() for p in store.glob("setups/*/*.safetensors")] == negatives


def test_one_bad_image_never_stops_a_run(
    images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Unreadable inputs are listed with row and reason, are NaN, and leave others' bits alone."""
    sound = (images / "cat" / "004.jpg").read_bytes()
    (images / "cat" / "004.jpg").write_bytes(sound[: len(sound) // 2])
    (images / "dog" / "003.jpg").write_text("not an image")
    (images / "dog" / "005.jpg").write_bytes(b"")
    store = tmp_path / "s.fungi"
    result = extract(str(images), store, options)
    assert result.failed == 3
    failures = Store.open(store).failures()
    assert [(f.row, f.uri) for f in failures] == [
        (4, "cat/004.jpg"),
        (15, "dog/003.jpg"),
        (17, "dog/005.jpg"),
    ]
    assert all(failure.error == "ImageError" and failure.message for failure in failures)
    good = read(whole)
    kept = np.setdiff1d(np.arange(24), [4, 15, 17])
    for name, array in read(store).items():
        assert np.isnan(array[[4, 15, 17]]).all()
        if "simclr" not in name:  # whose negatives may come from the broken images
            np.testing.assert_array_equal(array[kept], good[name][kept], err_msg=name)
    assert extract(str(images), store, options).failed == 3
    assert len((store / "failures.jsonl").read_text().splitlines()) == 3


def test_on_error_fail_stops_at_the_first_bad_image(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """With on_error="fail" the error names the file, and committed units stay."""
    (images / "dog" / "003.jpg").write_text("not an image")
    with pytest.raises(ImageError, match=r"dog/003\.jpg"):
        extract(str(images), tmp_path / "s.fungi", replace(options, on_error="fail"))
    assert extract(str(images), tmp_path / "s.fungi", options).units_computed < 3


CHANGES: dict[str, dict[str, object]] = {
    "gradient.seed": {"seed": 1},
    "backbone.image_size": {"image_size": 96},
    "dino.local_crops": {"objectives": SMALL | {"dino": DINO(head_dim=32, augment="full")}},
    "dino.augment": {"objectives": SMALL | {"dino": DINO(local_crops=2, head_dim=32)}},
    "layout.unit_rows": {"unit_rows": 16},
    "gradient.projection.kind": {"projection": "gaussian"},
    "patches.pool": {"pool": 2},
    "compute.batch_size": {"batch_size": 2},
    "views.size": {"view_size": "native"},
}


def test_changed_settings_are_refused_field_by_field(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Other settings on an existing feature set raise MismatchError that names the field."""
    options = replace(options, limit=8)
    extract(str(images), tmp_path / "s.fungi", options)
    before = record_times(tmp_path / "s.fungi")
    for field, change in CHANGES.items():
        with pytest.raises(MismatchError, match=field.replace(".", r"\.")) as caught:
            extract(str(images), tmp_path / "s.fungi", replace(options, **change))
        assert caught.value.exit_code == 4
        assert record_times(tmp_path / "s.fungi") == before
    for number, change in enumerate((CHANGES["gradient.seed"], CHANGES["views.size"])):
        beside = replace(options, feature_set=f"other{number}", **change)
        done = extract(str(images), tmp_path / "s.fungi", beside)
        assert done.feature_set == f"other{number}"


def test_other_weights_are_refused(
    same_images: Path, store: Path, tmp_path: Path, options: ExtractOptions, tiny_weights: Path
) -> None:
    """A single changed number in the weights is another model."""
    from safetensors.torch import save_file

    state = load_file(tiny_weights)
    state["norm.bias"][0] += 1e-3
    save_file(state, tmp_path / "other.safetensors")
    other = replace(options, weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(MismatchError, match=r"backbone\.weights"):
        extract(str(same_images), store, other)


def test_decisions_left_open_are_frozen_with_the_feature_set(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Batch size, precision and unit rows that were chosen once are kept by later runs."""
    explicit = replace(options, batch_size=2, unit_rows=16, features=("embeddings",))
    extract(str(images), tmp_path / "s.fungi", explicit)
    open_ended = replace(explicit, batch_size=None, unit_rows=None, dtype="auto", features=("kl",))
    extract(str(images), tmp_path / "s.fungi", open_ended)
    arrays = Store.open(tmp_path / "s.fungi").arrays(TINY)
    assert arrays["gradients/kl"].unit_rows == 16
    config = Store.open(tmp_path / "s.fungi").setups.config(arrays["gradients/kl"].fingerprint)
    assert config["compute"] == {"dtype": "float32", "batch_size": 2}


def test_restart_deletes_and_names_what_it_deletes(
    same_images: Path, store: Path, options: ExtractOptions
) -> None:
    """restart=True removes the feature set, says so, and accepts other settings."""

    class Notes:
        def __init__(self) -> None:
            self.texts: list[str] = []

        def notice(self, text: str) -> None:
            self.texts.append(text)

        def begin(self, what: str, total: int, done: int = 0) -> None: ...

        def advance(self, count: int) -> None: ...

        def end(self) -> None: ...

    notes = Notes()
    small = replace(options, features=("embeddings",), image_size=32)
    extract(str(same_images), store, small, restart=True, context=Context(notes))
    assert f"--restart: deleting {TINY}/gradients/kl (24 rows)" in notes.texts
    assert set(read(store)) == {"embeddings"}


def test_the_saved_options_replay_a_run(
    same_images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """The options in a setup, read back, make the same features."""
    saved = next(whole.glob("setups/*/options.json"))
    again = ExtractOptions.from_config(json.loads(saved.read_text()))
    assert again.objectives == options.objectives
    assert (again.batch_size, again.unit_rows, again.codec) == (4, 8, "none")
    extract(str(same_images), tmp_path / "again.fungi", again)
    assert_same(whole, tmp_path / "again.fungi")


def test_batch_size_changes_features_within_tolerance_only(
    same_images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Views and heads do not depend on the batch: another size agrees to float tolerance."""
    extract(str(same_images), tmp_path / "three.fungi", replace(options, batch_size=3))
    three = read(tmp_path / "three.fungi")
    for name, array in read(whole).items():
        np.testing.assert_allclose(three[name], array, rtol=2e-3, atol=2e-3, err_msg=name)


def test_pooled_patches_are_means_of_cells(
    same_images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """--pool 2 stores the mean of each 2 x 2 cell."""
    pooled = replace(options, features=("patches",), pool=2)
    extract(str(same_images), tmp_path / "pooled.fungi", pooled)
    full = read(whole)["patches"].astype(np.float32)
    expected = full.reshape(24, 2, 2, 2, 2, 64).mean(axis=(2, 4))
    np.testing.assert_allclose(read(tmp_path / "pooled.fungi")["patches"], expected, atol=5e-3)


def test_native_views_differ_from_model_sized_ones_but_agree_in_shape(
    same_images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """--view-size native runs, at other sizes of view, with features correlated to the paper's."""
    chosen = replace(options, features=("dino", "simclr"), view_size="native")
    extract(str(same_images), tmp_path / "native.fungi", chosen)
    of_model = read(whole)
    for name, array in read(tmp_path / "native.fungi").items():
        assert array.shape == of_model[name].shape
        assert not np.array_equal(array, of_model[name])


def test_the_memory_of_the_projection_changes_nothing(
    same_images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """A projection that is generated anew for each batch gives the same bits."""
    extract(str(same_images), tmp_path / "anew.fungi", replace(options, projection_memory=0))
    assert_same(whole, tmp_path / "anew.fungi")
    with pytest.raises(UsageError, match="projection-memory"):
        replace(options, projection_memory=-1)


@needs_vnni
def test_int8_is_a_choice_that_is_frozen(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """int8 stays near float32, goes on as int8 where --dtype is left out, and is a mismatch."""
    options = replace(options, limit=12)
    extract(str(images), tmp_path / "exact.fungi", options)
    int8 = replace(options, dtype="int8")
    extract(str(images), tmp_path / "int8.fungi", replace(int8, limit=8))
    extract(str(images), tmp_path / "int8.fungi", replace(options, dtype="auto"))
    extract(str(images), tmp_path / "whole.fungi", int8)
    assert_same(tmp_path / "int8.fungi", tmp_path / "whole.fungi")
    exact, fast = read(tmp_path / "exact.fungi"), read(tmp_path / "int8.fungi")
    for name in ("gradients/kl", "gradients/dino", "gradients/simclr"):
        cosines = (exact[name] * fast[name]).sum(axis=1)
        assert 0.98 < cosines.min() < 1 - 1e-7  # random weights, and views of one patch
    with pytest.raises(MismatchError, match=r"compute\.dtype: stored 'int8', asked 'float32'"):
        extract(str(images), tmp_path / "int8.fungi", options)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86 CPUs")
def test_int8_is_refused_by_a_cpu_that_cuts_sums_off(images: Path, tmp_path: Path) -> None:
    """oneDNN, held to instructions of 2013, multiplies as such a CPU would: wrongly."""
    run = [sys.executable, "-m", "fungi_cli", "extract", str(images), str(tmp_path / "a.fungi")]
    done = subprocess.run(
        [*run, "--model", "test_vit", "--dtype", "int8"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
    )
    assert done.returncode == 2
    assert "8-bit products" in done.stderr
    assert not (tmp_path / "a.fungi").exists()


@pytest.mark.slow
def test_a_compiled_run_is_another_setting(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """--compile goes on compiled where it is left out, and never mixes with what is not."""
    compiled = replace(options, features=("embeddings",), compile=True)
    extract(str(images), tmp_path / "s.fungi", replace(compiled, limit=8))
    extract(str(images), tmp_path / "s.fungi", replace(compiled, compile=None))
    extract(str(images), tmp_path / "plain.fungi", replace(compiled, compile=None))
    found = read(tmp_path / "s.fungi")["embeddings"]
    np.testing.assert_allclose(found, read(tmp_path / "plain.fungi")["embeddings"], atol=1e-5)
    with pytest.raises(MismatchError, match="compiled"):
        extract(str(images), tmp_path / "plain.fungi", compiled)


@pytest.mark.slow
def test_an_average_pooled_model_goes_the_general_way(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """A model without class-token pooling makes every feature too."""
    torch.manual_seed(0)
    from safetensors.torch import save_file

    name = "vit_base_patch16_gap_224"
    model = timm.create_model(name, pretrained=False, num_classes=0, img_size=32)
    save_file(model.state_dict(), tmp_path / "gap.safetensors")
    result = extract(
        str(images),
        tmp_path / "s.fungi",
        replace(
            options,
            model=name,
            weights=str(tmp_path / "gap.safetensors"),
            image_size=32,
            limit=2,
            feature_set=TINY,
        ),
    )
    assert result.failed == 0
    assert read(tmp_path / "s.fungi")["gradients/kl"].shape == (2, 768)


def test_what_a_folder_has_beside_images_is_said(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """In a dry run and in a run: photographs in another format are not left out in silence."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "IMG_1.XCF").write_bytes(b"x")
    shutil.copy(images / "cat" / "000.jpg", tmp_path / "new")
    options = replace(options, features=("embeddings",))
    said = "1 image, no labels, ignored: 1 .xcf"
    assert str(estimate(tmp_path / "new", tmp_path / "s.fungi", options).understood) == said
    told: list[str] = []

    class Listener(Silent):
        def notice(self, text: str) -> None:
            told.append(text)

    context = Context(reporter=Listener())
    done = extract(tmp_path / "new", tmp_path / "s.fungi", options, context=context)
    assert said in told
    assert done.to_json()["understood"]["ignored"] == {".xcf": 1}


def test_a_dry_run_counts_and_writes_nothing(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """estimate() tells images, units and bytes, with and without a store, and leaves no trace."""
    fresh = estimate(str(images), tmp_path / "s.fungi", options)
    assert not (tmp_path / "s.fungi").exists()
    assert fresh.remarks[0].startswith("transform of timm's test_vit")
    assert fresh.to_json()["backbone"]["transform"]["interpolation"] == "bicubic"
    assert (fresh.samples, fresh.images, fresh.units) == (24, 24, 3)
    assert fresh.forwards_per_image == 1 + 4 + 9
    assert 0 < fresh.seconds[0] <= fresh.seconds[1]
    done = extract(str(images), tmp_path / "s.fungi", replace(options, limit=8))
    assert (done.remarks, done.to_json()["backbone"]) == (fresh.remarks, dict(fresh.backbone))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s.fungi").rglob("*")}
    partial = estimate(str(images), tmp_path / "s.fungi", options)
    assert (partial.images, partial.units) == (16, 2)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s.fungi").rglob("*")}


def test_an_empty_source_leaves_no_store(tmp_path: Path, options: ExtractOptions) -> None:
    """A folder without images is refused, with what it holds instead, and nothing is made."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "IMG_1.XCF").write_bytes(b"x")
    for call in (extract, estimate):
        with pytest.raises(UsageError, match="no images found") as caught:
            call(str(tmp_path / "empty"), tmp_path / "s.fungi", options)
        assert caught.value.found == "1 .xcf"
    assert not (tmp_path / "s.fungi").exists()


def test_a_missing_manifest_file_is_a_failure_of_that_row(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """A manifest may name a file that is not there: the row stays, is NaN, and is listed."""
    manifest = images / "list.csv"
    manifest.write_text("path,label\ncat/000.jpg,x\ncat/nope.jpg,y\ndog/001.jpg,x\n")
    result = extract(
        str(manifest), tmp_path / "s.fungi", replace(options, features=("embeddings",))
    )
    assert (result.samples, result.failed) == (3, 1)
    assert np.isnan(read(tmp_path / "s.fungi")["embeddings"][1]).all()


def test_codecs_keep_the_numbers(
    same_images: Path, whole: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """zstd is lossless; bitround touches patch tensors alone, within one per cent."""
    for codec in ("zstd", "bitround"):
        extract(str(same_images), tmp_path / f"{codec}.fungi", replace(options, codec=codec))
    assert_same(whole, tmp_path / "zstd.fungi")
    plain, rounded = read(whole), read(tmp_path / "bitround.fungi")
    for name, array in plain.items():
        if name == "patches":
            assert not np.array_equal(array, rounded[name])
            np.testing.assert_allclose(rounded[name], array, rtol=0.02, atol=1e-3)
        else:
            np.testing.assert_array_equal(rounded[name], array)


def test_a_full_disk_loses_nothing(
    images: Path, tmp_path: Path, options: ExtractOptions, small_disk: Path
) -> None:
    """A full disk is explained and loses nothing; with room made, the same call goes on."""
    ballast = small_disk / "ballast"
    store = small_disk / "s.fungi"
    extract(str(images), store, replace(options, limit=8))
    free = os.statvfs(small_disk)
    ballast.write_bytes(b"x" * (free.f_bavail * free.f_frsize - 8 * 4096))
    committed = record_times(store)
    with pytest.raises(FungiError, match="same command") as caught:
        extract(str(images), store, options)
    assert caught.value.exit_code == 1
    now = record_times(store)
    assert all(now[path] == time for path, time in committed.items())
    ballast.unlink()
    extract(str(images), store, options)
    extract(str(images), tmp_path / "whole.fungi", replace(options, limit=8))
    extract(str(images), tmp_path / "whole.fungi", options)
    assert_same(tmp_path / "whole.fungi", store)
