"""`fungi bank`: the patches of the reference's scores, by the commit protocol of every array."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fungi_cli.main import app
from numpy.typing import NDArray
from PIL import Image
from plain_protocol import PlainBank, resized
from scene_world import SIDE
from typer.testing import CliRunner

import fungistore as fungi
from fungistore.annotations.masks import VOID, open_masks
from fungistore.errors import MismatchError, StoppedError, StoreError, UsageError
from fungistore.machine.context import Context
from fungistore.matrices.tokens import MOST_CELL, TokenMatrix, open_tokens
from fungistore.randomness import Stream
from fungistore.segmentation import lookup
from fungistore.segmentation.augmented import augmented
from fungistore.segmentation.labels import choose_patches, patch_counts, patch_scores
from fungistore.store.store import Store
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store

TRAIN = np.arange(6)


@pytest.fixture
def copied(scenes: Store, tmp_path: Path) -> Path:
    """A copy of the store, to be changed."""
    shutil.copytree(scenes.root, tmp_path / "scenes.fungi")
    return tmp_path / "scenes.fungi"


def chunks(store: Path) -> dict[str, bytes]:
    """The files of the banks' arrays and records."""
    found = [p for p in store.rglob("*") if p.is_file() and "/bank" in p.as_posix()]
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in found}


def test_scores_are_the_reference_codes() -> None:
    """Patches of two pixels: rows 0011, 0011, 0222, 0222."""
    mask = np.array([[0, 0, 1, 1]] * 2 + [[0, 2, 2, 2]] * 2, np.uint16)
    counts = patch_counts(mask, (2, 2), 2, 3)
    assert (counts > 0).sum(axis=(0, 1)).tolist() == [2, 1, 2]
    assert patch_scores(counts).tolist() == [[2, 1], [4, 2]]
    assert counts.sum(axis=2).tolist() == [[4, 4], [4, 4]]
    mask[:2, 2:] = VOID
    assert patch_scores(patch_counts(mask, (2, 2), 2, 3))[0, 1] == np.inf
    assert choose_patches(patch_counts(mask, (2, 2), 2, 3), 4, 0, "a").tolist() == [0, 2, 3]


def plain_choice(store: Store, row: int, most: int, seed: int) -> list[int]:
    """The places of an image's patches, by the definition."""
    masks = open_masks(store)
    square = resized(masks.read(row), SIDE, SIDE)
    side = SIDE // 4
    classes = [
        {c for c in square[y : y + side, x : x + side].ravel().tolist() if c != VOID}
        for y, x in product(range(0, SIDE, side), repeat=2)
    ]
    often = {c: sum(c in one for one in classes) for c in range(len(masks.classes))}
    numbers = Stream(seed, "bank", store.samples.take([row])[0]["id"]).uniform(16)
    scores = [
        sum(often[c] for c in one) * number if one else np.inf
        for one, number in zip(classes, numbers, strict=True)
    ]
    order = sorted(range(16), key=lambda place: scores[place])[:most]
    return sorted(place for place in order if np.isfinite(scores[place]))


def test_a_bank_has_the_patches_and_labels_of_plain_numpy(scenes: Store) -> None:
    """Of thirty patches six images give five each, chosen by score; of no size, all but void."""
    few, plain = fungi.open_bank(scenes, "few"), PlainBank(scenes, TRAIN, SIDE)
    whole = fungi.open_bank(scenes, "all")
    np.testing.assert_allclose(whole.vectors, plain.vectors, atol=1e-3)
    np.testing.assert_allclose(whole.counts / whole.counts.sum(1, keepdims=True), plain.labels)
    assert few.rows.tolist() == TRAIN.tolist()
    assert np.bincount(few.owners).tolist() == [5] * 6
    for row in TRAIN.tolist():
        places = plain_choice(scenes, row, 5, 42)
        expected = plain.tokens(row).reshape(16, -1)[places]
        np.testing.assert_allclose(few.vectors[few.owners == row], expected, atol=1e-3)
    assert (few.counts.sum(axis=1) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(few.vectors.astype(float), axis=1), 1, atol=2e-3)


def test_blocks_are_weighed_and_joined() -> None:
    """Section 3.3: each of unit length, weighed, side by side, and of unit length again."""
    random = np.random.default_rng(0)
    blocks = {
        "patches": random.standard_normal((2, 3, 3, 4)),
        "patches/kl": random.random((2, 3, 3, 2)),
    }
    matrix = fungi_tokens(blocks, (1.0, 0.5), None)
    one, other = (b / np.linalg.norm(b, axis=-1, keepdims=True) for b in blocks.values())
    both = np.concatenate([one, 0.5 * other], axis=-1)
    np.testing.assert_allclose(matrix.joined(blocks), both / np.sqrt(1.25), rtol=1e-5)
    centre = random.standard_normal((3, 3, 4)).astype(np.float32)
    centred = fungi_tokens({"patches": blocks["patches"]}, (1.0,), centre).joined(blocks)
    moved = blocks["patches"] - centre
    np.testing.assert_allclose(
        centred, moved / np.linalg.norm(moved, axis=-1, keepdims=True), rtol=1e-4, atol=1e-6
    )


def fungi_tokens(
    blocks: dict[str, NDArray[np.float64]], weights: tuple[float, ...], centre: Any
) -> Any:
    """A matrix that joins, without a store."""
    matrix = object.__new__(TokenMatrix)
    matrix.features, matrix.weights, matrix.centre = tuple(blocks), weights, centre
    return matrix


def test_a_centre_is_the_mean_token_of_each_place(copied: Path) -> None:
    """Of the bank's images alone, whatever the order; queries get it, too."""
    fungi.build_bank(copied, fungi.BankOptions(name="centred", center="positions"))
    bank = fungi.open_bank(copied, "centred")
    raw = open_tokens(copied).arrays["patches"].read(0, 6).astype(np.float64)
    moved = raw - raw.mean(axis=0)
    moved /= np.linalg.norm(moved, axis=-1, keepdims=True)
    ((_, tokens),) = bank.tokens.stream(np.array([2]))
    np.testing.assert_allclose(tokens[0], moved[2], atol=1e-4)


def test_stopped_and_continued_it_is_the_same(copied: Path, scenes: Store) -> None:
    """A stop between any two units; a lost record; and nothing is left to do."""
    options = fungi.BankOptions(name="all")
    whole = chunks(copied)
    fungi.build_bank(copied, options, restart=True)
    assert chunks(copied) == whole
    for stops in (0, 1, 2):
        answers = iter([False] * stops + [True])
        stopping = Context(stop=lambda answers=answers: next(answers))
        with pytest.raises(StoppedError):
            fungi.build_bank(copied, options, restart=True, context=stopping)
        fungi.build_bank(copied, options)
        assert chunks(copied) == whole
    (copied / "commits/test_vit/bank-labels/all/00000000.json").unlink()
    assert fungi.build_bank(copied, options).units_computed == 1
    assert chunks(copied) == whole
    assert fungi.build_bank(copied, options).units_computed == 0


def test_other_masks_change_their_units_alone(copied: Path, scenes: Store) -> None:
    """Masks that changed are taken over by the next run; the other unit stays as it is."""
    before = fungi.open_bank(copied, "all")
    folder = scenes.root.parent
    masks = copied.parent / "masks" / "train"
    shutil.copytree(folder / "train", masks)
    changed = np.zeros((40, 60), np.uint8)
    Image.fromarray(changed).save(masks / "000-mask.png")
    for image in masks.glob("[0-9][0-9][0-9].png"):
        image.unlink()
    fungi.annotate(copied, masks.parent, fungi.AnnotateOptions())
    done = fungi.build_bank(copied, fungi.BankOptions(name="all"))
    assert done.units_computed == 1
    after = fungi.open_bank(copied, "all")
    assert (after.counts[after.owners == 0][:, 1:] == 0).all()
    np.testing.assert_array_equal(before.counts[before.owners > 0], after.counts[after.owners > 0])


def test_other_settings_are_refused_by_name(copied: Path) -> None:
    with pytest.raises(MismatchError) as caught:
        fungi.build_bank(copied, fungi.BankOptions(name="all", void="background"))
    assert "void" in str(caught.value)
    with pytest.raises(UsageError, match="no such feature of patches"):
        fungi.build_bank(copied, fungi.BankOptions(features=("patches/none",)))
    with pytest.raises(UsageError, match="one weight"):
        fungi.build_bank(copied, fungi.BankOptions(block_weights=(1.0, 2.0)))
    with pytest.raises(UsageError, match="which bank"):
        fungi.open_bank(copied)


def test_void_can_be_background(copied: Path) -> None:
    """The reference code's way: pixels of no class are of the first, and no patch is left out."""
    fungi.build_bank(copied, fungi.BankOptions(name="back", void="background"))
    bank = fungi.open_bank(copied, "back")
    assert len(bank.vectors) == 6 * 16
    assert (bank.counts.sum(axis=1) == (SIDE // 4) ** 2).all()


@pytest.mark.parametrize("count", [1, 7, 100])
def test_exact_search_is_faiss_own(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, from float16: the neighbours of one sorted product."""
    random = np.random.default_rng(count)
    bank = random.standard_normal((count, 8)).astype(np.float16)
    queries = random.standard_normal((5, 8)).astype(np.float32)
    monkeypatch.setattr(lookup, "BLOCK_BYTES", 4 * 8 * 16)
    cosines, ids = lookup.exact(bank, queries, 9)
    products = queries @ bank.astype(np.float32).T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(ids[:, :count], expected)
    assert (ids[:, count:] == -1).all()
    assert np.isneginf(cosines[:, count:]).all()
    np.testing.assert_allclose(
        cosines[:, :count], np.take_along_axis(products, expected, 1), rtol=1e-5, atol=1e-6
    )


def test_an_index_finds_what_exact_search_finds(copied: Path) -> None:
    """Its recall is measured; damaged, it is refused with a way out; unused files go."""
    options = fungi.BankOptions(name="all", factory="IVF4,Flat", target_recall=0.99)
    done = fungi.build_bank(copied, options)
    assert done.factory == "IVF4,Flat"
    assert done.recall is not None
    assert done.recall > 0.9
    bank = fungi.open_bank(copied, "all")
    assert bank.index is not None
    exact = replace(bank, index=None)
    queries = bank.vectors[::7].astype(np.float32)
    found, expected = bank.search(queries, 1)[1], exact.search(queries, 1)[1]
    assert (found == expected).mean() > 0.9
    (file,) = (copied / "banks/test_vit/all").glob("*.faiss")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match="damaged"):
        fungi.open_bank(copied, "all")


def test_verify_knows_banks(copied: Path) -> None:
    """Sound ones are; a damaged chunk is dropped, and the command told makes it again."""
    assert fungi.verify_store(copied).findings == ()
    chunk = copied / "features.zarr/test_vit/bank/all/c/0/0/0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(bytes(data))
    (finding,) = fungi.verify_store(copied).findings
    assert "bank/all" in finding.where
    told = fungi.repair_store(copied)
    assert "fungi bank" in str(told.to_json())
    before = chunks(copied)
    fungi.build_bank(copied, fungi.BankOptions(name="all"))
    assert len(chunks(copied)) == len(before) + 2


def test_the_command_says_what_it_made(copied: Path) -> None:
    done = CliRunner().invoke(app, ["bank", str(copied), "--name", "two", "--size", "12", "--json"])
    assert done.exit_code == 0
    assert '"per_image": 2' in done.stdout
    again = CliRunner().invoke(app, ["bank", str(copied), "--name", "two", "--size", "12"])
    assert "12 patches of 6 images" in again.stdout


def test_later_epochs_are_crops_of_images_and_masks_together(copied: Path, scenes: Store) -> None:
    """The first is the stored one; the other is the same in every run."""
    options = fungi.BankOptions(name="two", epochs=2, device="cpu")
    done = fungi.build_bank(copied, options)
    bank, one = fungi.open_bank(copied, "two"), fungi.open_bank(copied, "all")
    assert (done.epochs, done.per_image) == (2, 16)
    assert len(bank.vectors) > 1.8 * len(one.vectors)
    first = bank.vectors[bank.owners == 0]
    np.testing.assert_array_equal(first[: (one.owners == 0).sum()], one.vectors[one.owners == 0])
    whole = chunks(copied)
    fungi.build_bank(copied, options, restart=True)
    assert chunks(copied) == whole


@pytest.mark.parametrize("shape", [(40, 60), (1, 1), (300, 4)])
def test_an_augmented_mask_is_cut_with_its_image(shape: tuple[int, int]) -> None:
    """Every pixel keeps its label, whose value it has; half the area at least."""
    height, width = shape
    mask = np.arange(height * width, dtype=np.uint16).reshape(shape) % 200
    image = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8)
    for number in range(20):
        view, labels = augmented(image, mask, Stream(number, "test"))
        assert view.shape == (*labels.shape, 3)
        assert np.abs(view.mean(axis=2) - labels).max() <= 45  # of the jitter alone
        if height < 4 * width / 3 and width < 4 * height / 3:
            assert labels.size >= 0.45 * mask.size


def test_labels_of_other_masks_are_refused(copied: Path) -> None:
    """Masks that have changed since the bank was made: nothing is said from the old ones."""
    whole = fungi.open_bank(copied, "all").counts.sum()
    masks = copied.parent / "other"
    masks.mkdir()
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(masks / "000.png")
    fungi.annotate(copied, masks)
    with pytest.raises(MismatchError, match="other masks"):
        fungi.open_bank(copied, "all")
    assert fungi.build_bank(copied, fungi.BankOptions(name="all")).units_computed == 1
    assert fungi.open_bank(copied, "all").counts.sum() > whole


def test_labels_and_vectors_that_were_not_made_together_are_not_used(copied: Path) -> None:
    """As a kill would leave them between the arrays: the unit is not there until it is made."""
    record = copied / "commits/test_vit/bank-labels/all/00000000.json"
    before = record.read_bytes()
    masks = copied.parent / "other"
    masks.mkdir()
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(masks / "000.png")
    fungi.annotate(copied, masks)
    fungi.build_bank(copied, fungi.BankOptions(name="all"))
    record.write_bytes(before)
    assert fungi.open_bank(copied, "all").rows.tolist() == [4, 5]
    assert fungi.build_bank(copied, fungi.BankOptions(name="all")).units_computed == 1


def test_weights_belong_to_features_as_they_are_asked_for(copied: Path) -> None:
    """Whatever the order; and a single feature of any weight gives unit vectors."""
    features = copied / "features.zarr/test_vit"
    shutil.copytree(features / "patches", features / "patch-gradients/x")
    tokens = open_tokens(copied, ["patches/x", "patches"], weights=[2.0, 1.0])
    assert tokens.features == ("patches", "patches/x")
    assert tokens.weights == (1.0, 2.0)
    heavy = open_tokens(copied, ["patches"], weights=[3.0]).read(0, 1)
    np.testing.assert_allclose(np.linalg.norm(heavy, axis=-1), 1, atol=1e-5)


def test_cells_have_no_more_pixels_than_16_bits_count(scenes: Store) -> None:
    """Those of the largest cell, all of one class."""
    counts = patch_counts(np.zeros((600, 600), np.uint16), (1, 1), MOST_CELL, 1)
    assert counts.max() == counts.astype(np.uint16).max() == MOST_CELL**2
    assert open_tokens(scenes).cell == SIDE // 4


def test_a_damaged_index_is_made_again_by_the_same_command(copied: Path) -> None:
    options = fungi.BankOptions(name="few", factory="HNSW4", size=30)
    fungi.build_bank(copied, options)
    (file,) = (copied / "banks/test_vit/few").glob("*.faiss")
    whole = file.read_bytes()
    for damaged in (b"x", b""):
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged"):
            fungi.open_bank(copied, "few")
        fungi.build_bank(copied, options)
        assert file.read_bytes() == whole
    assert fungi.open_bank(copied, "few").index is not None


def test_verify_tells_of_a_damaged_index_and_of_other_masks(copied: Path) -> None:
    """The index is removed, and search is exact; labels of other masks are a warning."""
    fungi.build_bank(copied, fungi.BankOptions(name="few", factory="HNSW4", size=30))
    assert verify_store(copied).findings == ()
    (file,) = (copied / "banks/test_vit/few").glob("*.faiss")
    file.write_bytes(b"x")
    masks = copied.parent / "other"
    masks.mkdir()
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(masks / "000.png")
    fungi.annotate(copied, masks)
    kinds = [finding.kind for finding in verify_store(copied).findings]
    assert kinds == ["index-damaged", "bank-stale", "bank-stale"]
    repair_store(copied)
    fungi.build_bank(copied, fungi.BankOptions(name="all"))
    fungi.build_bank(copied, fungi.BankOptions(name="few", factory="HNSW4", size=30))
    assert verify_store(copied).findings == ()
