"""A store as a torch Dataset: the store's exact rows, whoever reads them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, default_collate

from feature_world import clustered, make_store, write_block
from fungistore.errors import StoreError, UsageError
from fungistore.store.dataset import StoreDataset
from fungistore.store.feature import Feature
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

ROWS = 40
FAILED = 5


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Embeddings, gradients and patch tensors of 40 samples in units of 16, one of them failed."""
    vectors, labels = clustered(ROWS, 4, 6)
    vectors[FAILED] = np.nan
    splits = ["train", "test"] * (ROWS // 2)
    blocks = {"embeddings": vectors, "gradients/kl": vectors[:, :3]}
    made = make_store(tmp_path / "s.fungi", blocks, [*labels[:-1], None], splits)
    patches = np.random.default_rng(1).standard_normal((ROWS, 2, 3, 4)).astype(np.float16)
    write_block(made, "set", "patches", patches)
    return made


def by_id(batches: Iterable[dict[str, Any]], name: str) -> dict[str, torch.Tensor]:
    return {id_: value for b in batches for id_, value in zip(b["id"], b[name], strict=True)}


def test_an_item_has_what_the_store_has_of_a_row(store: Store) -> None:
    """Features in the stored type, the class's number, id and row; failed inputs are left out."""
    dataset = store.dataset("patches", "embeddings", "kl")
    assert len(dataset) == ROWS - 1
    assert dataset.left_out == {"rows without usable features": 1}
    assert FAILED not in dataset.rows
    arrays = store.arrays("set")
    for index in (0, 7, -1):
        item = dataset[index]
        row = item["row"]
        assert row == dataset.rows[index]
        assert list(item) == ["patches", "embeddings", "kl", "label", "id", "row"]
        for name, path in (("patches", "patches"), ("kl", "gradients/kl")):
            np.testing.assert_array_equal(item[name].numpy(), arrays[path].read(row, row + 1)[0])
        assert item["patches"].dtype == torch.float16
        sample = store.samples.rows(row, row + 1)[0]
        assert item["id"] == sample["id"]
        assert item["label"] == (-1 if sample["label"] is None else sample["label"])
    assert dataset.classes == ("class 0", "class 1", "class 2", "class 3")
    assert "39 rows of patches [2, 3, 4]" in repr(dataset)
    with pytest.raises(IndexError):
        dataset[ROWS]


def test_items_are_numbered_as_of_a_list(store: Store) -> None:
    """By whole numbers of any kind, from the end too; alone and in batches."""
    dataset = store.dataset("kl")
    assert dataset.__getitems__([-1, 0, -1]).fields["id"] == [dataset[i]["id"] for i in (-1, 0, -1)]
    assert dataset[np.int64(-2)]["id"] == dataset[torch.tensor(len(dataset) - 2)]["id"]
    for odd in (1.5, slice(0, 2), "0"):
        with pytest.raises(TypeError):
            dataset[odd]  # type: ignore[index]
    for beyond in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset.__getitems__([beyond])
    with pytest.raises(UsageError, match="no split"):
        store.dataset("kl", split=["train"])  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_torchs_own_collate_makes_batches(store: Store, codec: Any) -> None:
    """Of a DataLoader, a Subset, and items that were taken one by one; plain or compressed."""
    array = store.create_array(
        codec,
        Feature("embeddings", (6,), "float32"),
        rows=ROWS,
        unit_rows=16,
        codec=codec,
        fingerprint="f1",
    )
    values = np.random.default_rng(2).standard_normal((ROWS, 6)).astype(np.float32)
    for unit in range(array.units):
        array.publish(unit, values[16 * unit :][:16], "ids", 0)
    dataset = store.dataset("embeddings", feature_set=codec)
    batch = next(iter(DataLoader(dataset, batch_size=8)))
    np.testing.assert_array_equal(batch["embeddings"], values[:8])
    assert batch["label"].tolist() == [0, 1, 2, 3] * 2
    assert batch["label"].dtype == batch["row"].dtype == torch.int64
    assert batch["id"][3] == "000003.jpg"
    part = next(iter(DataLoader(Subset(dataset, [30, 2]), batch_size=2)))
    np.testing.assert_array_equal(part["embeddings"], values[[30, 2]])
    alone = default_collate([dataset[30], dataset[2]])
    assert alone.keys() == part.keys()
    assert torch.equal(alone["embeddings"], part["embeddings"])
    assert torch.equal(alone["row"], part["row"])


def test_a_batch_is_the_callers(store: Store) -> None:
    """Nothing writes into a batch later, and who writes into it changes neither store nor items."""
    dataset = store.dataset("patches")
    batches = list(DataLoader(dataset, batch_size=4))
    for batch in DataLoader(dataset, batch_size=4):
        batch["patches"].zero_()
    found = torch.cat([batch["patches"] for batch in batches])
    whole = store.arrays("set")["patches"].read(0, ROWS)
    np.testing.assert_array_equal(found.numpy(), whole)


def test_workers_deliver_the_same_rows(store: Store) -> None:
    """Forked ones, of a dataset that was read from before; each row exactly once."""
    dataset = store.dataset("patches", "embeddings")
    here = by_id(DataLoader(dataset, batch_size=5), "patches")
    loader = DataLoader(
        dataset, batch_size=5, shuffle=True, num_workers=1, multiprocessing_context="fork"
    )
    there = by_id(loader, "patches")
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.slow
def test_spawned_workers_deliver_the_same_rows(store: Store) -> None:
    """The dataset is pickled for them."""
    dataset = store.dataset("patches")
    here = by_id(DataLoader(dataset, batch_size=5), "patches")
    loader = DataLoader(dataset, batch_size=5, num_workers=2, multiprocessing_context="spawn")
    there = by_id(loader, "patches")
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_dataset_can_be_pickled(store: Store) -> None:
    """Also after it was read from: maps and buffers stay behind."""
    dataset = store.dataset("patches", split="test")
    first = dataset[0]
    copy: StoreDataset = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[0]["patches"], first["patches"])
    assert copy[0]["id"] == first["id"]


def test_splits_and_rows_choose(store: Store) -> None:
    """Row numbers keep their order; a mask is one too; both and a split are an intersection."""
    assert store.dataset("patches", split="train").rows.tolist() == list(range(0, ROWS, 2))
    assert store.dataset("patches", rows=[9, 3, 4]).rows.tolist() == [9, 3, 4]
    assert store.dataset("embeddings", rows=[9, FAILED, 4], split="test").rows.tolist() == [9]
    mask = np.arange(ROWS) < 3
    assert store.dataset("patches", rows=mask).rows.tolist() == [0, 1, 2]
    assert len(store.dataset("patches", rows=[])) == 0


def test_what_is_not_there_is_said(store: Store) -> None:
    """With what is: features, splits, rows."""
    with pytest.raises(UsageError, match="dino") as missing:
        store.dataset("dino")
    assert missing.value.expected == "embeddings, kl, patches"
    with pytest.raises(UsageError, match="which features"):
        store.dataset()
    with pytest.raises(UsageError, match="one after the other"):
        store.dataset(["patches", "kl"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no split") as no_split:
        store.dataset("patches", split="val")
    assert no_split.value.expected == "test, train"
    for rows in ([ROWS], [-1], [0.5], "0-9", [[1]]):
        with pytest.raises(UsageError, match="rows that are not there"):
            store.dataset("patches", rows=rows)  # type: ignore[arg-type]


def test_rows_that_are_not_made_yet_are_left_out(store: Store) -> None:
    """So a dataset of a store that grows has what all of its features have."""
    array = store.arrays("set")["patches"]
    array.forget(1)
    dataset = store.dataset("patches")
    assert dataset.rows.tolist() == [*range(16), *range(32, ROWS)]
    assert dataset.left_out == {"rows without usable features": 16}


def test_a_damaged_chunk_is_an_error(store: Store) -> None:
    """And not a crash of the process."""
    dataset = store.dataset("patches")
    array: UnitArray = store.arrays("set")["patches"]
    array.chunk_path(0).write_bytes(b"short")
    with pytest.raises(StoreError, match="damaged"):
        dataset[0]
