"""Items inside files: every reader's images are the very pixels that its library wrote."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset

import fungistore as fungi
from fungistore.containers.arrays import BLOCK_BYTES
from fungistore.containers.cifar import read_plain_pickle
from fungistore.containers.pillow import encode_image
from fungistore.containers.pixels import encode_pixels
from fungistore.errors import ItemError, UsageError
from fungistore.location import absolute_uri, contained_uri, locate, path_to_uri
from fungistore.modalities.image.images import Images
from fungistore.modalities.reading import read_item
from fungistore.sources.sample import Sample
from fungistore.sources.torch_dataset import DatasetSource

Pixels = NDArray[np.uint8]
PICTURES = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), dtype=np.uint8)
CLASSES = ["cat", "dog", "owl"]


def png(pixels: Pixels) -> bytes:
    """Encode an image without loss."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pixels_of(source: Any, sample: Sample) -> Pixels:
    """Read a sample as the extraction does."""
    found: Pixels = read_item(Images(), source.root, sample.uri)
    return found


def read_all(place: object) -> tuple[Any, list[Sample]]:
    """Open a source, and list it."""
    source: Any = fungi.open_source(str(place))
    return source, list(source)


def assert_pixels(source: Any, samples: list[Sample], pictures: Any) -> None:
    """Every sample is its picture, asked for in any order."""
    assert len(samples) == len(pictures)
    order = np.random.default_rng(1).permutation(len(samples))
    for number in order.tolist():
        assert np.array_equal(pixels_of(source, samples[number]), pictures[number]), number


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)),
    st.sampled_from([(1,), (3,), ()]),
    st.booleans(),
)
def test_encoded_pixels_are_the_same_pixels(
    grey: Pixels, channels: tuple[int, ...], first: bool
) -> None:
    """Grey and RGB, channels first or last; what cannot be told apart is [h, w, c]."""
    pixels = np.broadcast_to(grey[..., None], (*grey.shape, *channels)) if channels else grey
    given_pixels = np.moveaxis(pixels, -1, 0) if channels and first else pixels
    if channels and first and given_pixels.shape[-1] in (1, 3, 4):
        return  # as [h, w, c] it is another image
    found = Images().read(io.BytesIO(encode_pixels(given_pixels)))
    assert np.array_equal(found, np.broadcast_to(grey[..., None], (*grey.shape, 3)))


def test_other_numbers_are_pixels_where_their_range_is_agreed() -> None:
    """16 bits, truth values, numbers from 0 to 1, transparency; not what is normalised already."""
    grey = PICTURES[0, ..., 0]
    read = lambda array: Images().read(io.BytesIO(encode_pixels(array)))[..., 0]  # noqa: E731
    assert np.array_equal(read(grey.astype(np.uint16) * 257), grey)
    for order in "<>":  # dark ones are not taken for 8 bits
        dark = np.full((2, 2), 2 * 257).astype(f"{order}u2")
        assert np.array_equal(read(dark), np.full((2, 2), 2))
    assert np.array_equal(read(grey > 99), 255 * (grey > 99))
    assert np.array_equal(read(grey.astype(np.float32) / 255), grey)
    assert np.array_equal(read(grey.astype(np.int64)), grey)
    clear = np.dstack([PICTURES[0], np.full(grey.shape, 255, np.uint8)])
    assert np.array_equal(Images().read(io.BytesIO(encode_pixels(clear))), PICTURES[0])
    for array in (grey - 128.0, np.full((3, 3), np.nan), np.zeros((2, 5, 5)), np.zeros((0, 3))):
        with pytest.raises(ItemError):
            encode_pixels(array)


def test_pillow_s_odd_modes_keep_their_values() -> None:
    """More than 8 bits are scaled, not clipped; transparency is kept; no range, no image."""
    sixteen = np.array([[0, 257], [30_000, 65_535]], np.uint16)
    wanted = (sixteen.astype(np.uint32) + 128) // 257
    images = [
        Image.frombytes("I;16B", (2, 2), sixteen.astype(">u2").tobytes()),
        Image.frombytes("I;16", (2, 2), sixteen.astype("<u2").tobytes()),
        Image.fromarray(sixteen.astype(np.int32)),
        Image.fromarray(wanted.astype(np.float32) / 255),
    ]
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    keyed = Image.new("RGB", (2, 2), (1, 2, 3))
    keyed.info["transparency"] = (1, 2, 3)
    white = [clear.convert("PA"), clear.convert("RGBa"), keyed]
    white.append(Image.new("LA", (2, 2)).convert("La"))
    for image, pixels in [*((one, wanted) for one in images), *((one, 255) for one in white)]:
        found = Images().read(io.BytesIO(encode_image(image)))
        assert np.array_equal(found, np.broadcast_to(pixels, (3, 2, 2)).T.swapaxes(0, 1)), image
    for image in (Image.new("I", (2, 2), 70_000), Image.new("F", (2, 2), 255.0)):
        with pytest.raises(ItemError, match=r"range|normalised"):
            encode_image(image)


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "train-images-idx3-ubyte"])
def test_no_header_decides_memory(name: str, tmp_path: Path) -> None:
    """A file of a kilobyte that declares images of 10 GB: no image of it is asked for."""
    shape = (2, 100_000, 100_000)
    if name == "a.h5":
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("images", shape, "u1", chunks=(1, 100, 100))
    elif name == "a.npz":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("images.npy", header.getvalue())
    else:
        (tmp_path / name).write_bytes(struct.pack(">HBBIII", 0, 8, 3, *shape))
    source, samples = read_all(tmp_path / name)
    with pytest.raises(ItemError, match="header declares"):
        pixels_of(source, samples[0])


@settings(max_examples=50)
@given(st.text(min_size=1).filter(lambda t: "\0" not in t), st.text())
def test_the_uri_of_an_item_in_a_file_is_undone(file: str, key: str) -> None:
    """Whatever the names; a plain file called like one is no such item."""
    file = "a" + file.replace("/", "_").encode(errors="replace").decode()
    key = key.encode(errors="replace").decode()
    uri = contained_uri(file, "npz", key, 7)
    found = locate("/root", uri)
    assert (found.path, found.container, found.key, found.file_size) == (
        str(Path("/root", file)),
        "npz",
        key,
        7,
    )
    assert locate("/other", absolute_uri("/root", uri)) == found
    assert not locate("/root", path_to_uri(uri)).container


def hub_parquet(path: Path, rows: range, **columns: Any) -> None:
    """Write what datasets' to_parquet does: structs of bytes and path, features in the schema."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": CLASSES, "_type": "ClassLabel"},
        "caption": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table(
        {
            "image": [{"bytes": png(PICTURES[row]), "path": f"{row}.png"} for row in rows],
            "label": pa.array([row % 3 for row in rows], pa.int64()),
            "caption": [f"picture {row}" for row in rows],
            **columns,
        }
    )
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=3)


def test_parquet_of_a_hub_is_a_source(tmp_path: Path) -> None:
    """Shards in the order of their numbers, splits from their names, names of classes."""
    hub_parquet(tmp_path / "data/train-00010-of-00011.parquet", range(4, 8))
    hub_parquet(tmp_path / "data/train-00009-of-00011.parquet", range(4))
    hub_parquet(tmp_path / "data/validation-00000-of-00001.parquet", range(8, 12))
    source, samples = read_all(tmp_path)
    assert_pixels(source, samples, PICTURES)
    assert samples[5].id == "data/train-00010-of-00011.parquet/1"
    assert [sample.label for sample in samples] == [CLASSES[row % 3] for row in range(12)]
    assert [sample.split for sample in samples] == ["train"] * 8 + ["val"] * 4
    assert source.label_names() == CLASSES
    assert source.columns() == {"caption": "text"}
    assert samples[11].cells == ("picture 11",)
    one, alone = read_all(tmp_path / "data" / "train-*.parquet")
    assert_pixels(one, alone, PICTURES[:8])


def test_each_file_counts_its_own_classes(tmp_path: Path) -> None:
    """Files that were written apart may lack a class, or have them in another order."""
    for name, words in (("bird-train.parquet", CLASSES), ("bird-test.parquet", ["owl", "dog"])):
        features = {"label": {"_type": "ClassLabel", "names": words}}
        document = json.dumps({"info": {"features": features}})
        cells = [{"bytes": png(PICTURES[0]), "path": "x.png"}] * 2
        table = pa.table({"image": cells, "label": [0, 1], "path": ["a.png", "b.png"]})
        pq.write_table(table.replace_schema_metadata({"huggingface": document}), tmp_path / name)
    source, samples = read_all(tmp_path)
    assert [(one.split, one.label) for one in samples] == [
        ("test", "owl"),
        ("test", "dog"),
        ("train", "cat"),
        ("train", "dog"),
    ]
    assert (sorted(source.label_names()), source.columns()) == (CLASSES, {"path": "text"})
    odd = pa.table({"image": cells, "label": ["cat", "dog"], "path": ["a.png", "b.png"]})
    pq.write_table(odd, tmp_path / "val.parquet")
    with pytest.raises(UsageError, match="another type"):
        read_all(tmp_path)


def test_rows_may_name_files(tmp_path: Path) -> None:
    """A row without bytes is the file that it names, beside the table."""
    Image.fromarray(PICTURES[1]).save(tmp_path / "one.png")
    cells = [{"bytes": png(PICTURES[0]), "path": None}, {"bytes": None, "path": "one.png"}]
    pq.write_table(pa.table({"image": cells, "label": ["x", "y"]}), tmp_path / "t.parquet")
    source, samples = read_all(tmp_path / "t.parquet")
    assert_pixels(source, samples, PICTURES[:2])
    assert source.label_names() == ["x", "y"]


def test_a_manifest_in_parquet_stays_one(tmp_path: Path) -> None:
    """Paths make a manifest, whatever else is in it."""
    Image.fromarray(PICTURES[0]).save(tmp_path / "one.png")
    pq.write_table(pa.table({"path": ["one.png"], "bytes": [b"x"]}), tmp_path / "m.parquet")
    assert [sample.id for sample in read_all(tmp_path / "m.parquet")[1]] == ["one.png"]


def saved_dataset(folder: Path, rows: range) -> None:
    """Write what datasets' save_to_disk does."""
    folder.mkdir(parents=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": png(PICTURES[row]), "path": None} for row in rows], kind)
    table = pa.table({"img": cells, "fine": pa.array([row % 3 for row in rows], pa.int64())})
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    features = {"img": {"_type": "Image"}, "fine": {"names": CLASSES, "_type": "ClassLabel"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_saved_datasets_are_sources(tmp_path: Path) -> None:
    """One, or one for each split; a choice of rows beside the rows is refused."""
    saved_dataset(tmp_path / "d" / "train", range(8))
    saved_dataset(tmp_path / "d" / "test", range(8, 12))
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    source, samples = read_all(tmp_path / "d")
    assert_pixels(source, samples, PICTURES)
    assert [sample.split for sample in samples] == ["train"] * 8 + ["test"] * 4
    assert samples[4].label == "dog"
    assert_pixels(*read_all(tmp_path / "d" / "train"), PICTURES[:8])
    state = json.loads((tmp_path / "d/test/state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (tmp_path / "d/test/state.json").write_text(json.dumps(state))
    with pytest.raises(UsageError, match="choice of rows"):
        fungi.open_source(str(tmp_path / "d"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_as_medmnist_has_it(save: Any, tmp_path: Path) -> None:
    """Images and labels by split; labels of several numbers are said, and left."""
    arrays = {
        "train_images": PICTURES[:6],
        "train_labels": np.arange(6)[:, None] % 3,
        "val_images": PICTURES[6:8],
        "val_labels": np.zeros((2, 1), int),
        "test_images": PICTURES[8:],
        "test_labels": np.zeros((4, 14), int),
    }
    save(tmp_path / "pathmnist.npz", **arrays)
    source, samples = read_all(tmp_path / "pathmnist.npz")
    assert_pixels(source, samples, PICTURES)
    assert [sample.split for sample in samples] == ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    assert [sample.label for sample in samples[:4]] == ["0", "1", "2", "0"]
    assert samples[9].label is None
    assert "test_labels has several numbers" in " ".join(source.remarks())


def test_npz_as_keras_has_it_and_odd_labels(tmp_path: Path) -> None:
    """`x_train` beside `y_train`; numbers of classes in floats; vectors are no images."""
    half = {"x_train": PICTURES[:6], "y_train": np.arange(6.0), "x_test": PICTURES[6:]}
    np.savez(tmp_path / "keras.npz", **half)
    source, samples = read_all(tmp_path / "keras.npz")
    assert_pixels(source, samples, PICTURES)
    assert [(one.split, one.label) for one in samples[5:7]] == [("train", "5"), ("test", None)]
    odd = np.array([["a"], ["b"]], dtype=object)
    np.savez(tmp_path / "odd.npz", images=PICTURES[:2], labels=odd)
    source, samples = read_all(tmp_path / "odd.npz")
    assert (samples[0].label, "no labels" in source.remarks()[0]) == (None, True)
    np.savez(tmp_path / "vectors.npz", x=np.zeros((6, 8)))
    with pytest.raises(UsageError, match="fungi import"):
        fungi.open_source(str(tmp_path / "vectors.npz"))


def test_words_are_labels_in_hdf5(tmp_path: Path) -> None:
    """As h5py writes them, each of its own length."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["labels"] = PICTURES, [CLASSES[row % 3] for row in range(12)]
    source, samples = read_all(tmp_path / "a.h5")
    assert [sample.label for sample in samples[:3]] == CLASSES
    assert source.label_names() == CLASSES


def test_a_large_compressed_array_is_read_in_blocks(tmp_path: Path) -> None:
    """Any order gives the same images; memory holds a few blocks."""
    count = 3 * BLOCK_BYTES // (64 * 64) + 5
    grey = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 64, 64))
    np.savez_compressed(tmp_path / "a.npz", images=grey)
    source, samples = read_all(tmp_path / "a.npz")
    for number in (0, count - 1, 1, count // 2, count - 2, 0):
        assert np.array_equal(pixels_of(source, samples[number])[..., 0], grey[number]), number


def idx(path: Path, array: NDArray[Any], *, compressed: bool = False) -> None:
    """Write an IDX file of bytes."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if compressed else content)


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_are_a_source(compressed: bool, tmp_path: Path) -> None:
    """As MNIST's, compressed or not: training first; labels by their numbers."""
    grey, end = PICTURES[..., 0], ".gz" if compressed else ""
    for word, part in (("t10k", slice(8, 12)), ("train", slice(0, 8))):
        idx(tmp_path / f"{word}-images-idx3-ubyte{end}", grey[part], compressed=compressed)
        idx(tmp_path / f"{word}-labels-idx1-ubyte{end}", np.arange(12)[part], compressed=compressed)
    source, samples = read_all(tmp_path)
    assert_pixels(source, samples, np.broadcast_to(grey[..., None], PICTURES.shape))
    assert [sample.label for sample in samples] == [str(number) for number in range(12)]
    assert [sample.split for sample in samples] == ["train"] * 8 + ["test"] * 4
    assert source.label_names()[-1] == "11"


def test_emnist_is_read_one_set_at_a_time(tmp_path: Path) -> None:
    """Its folder has six, whose labels are not the same classes; splits are in the names' ends."""
    for name in ("letters-test", "letters-train", "digits-train"):
        head = struct.pack(">HBBIII", 0, 8, 3, 12, 9, 7)
        content = head + PICTURES[..., 0].tobytes()
        (tmp_path / f"emnist-{name}-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UsageError, match="several data sets"):
        fungi.open_source(str(tmp_path))
    (tmp_path / "emnist-digits-train-images-idx3-ubyte").unlink()
    samples = read_all(tmp_path)[1]
    assert [sample.split for sample in samples] == ["train"] * 12 + ["test"] * 12


def test_hdf5_and_its_pairs_are_sources(tmp_path: Path) -> None:
    """An array of images with labels in the file, or beside it as PCam has them."""
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["images"], file["labels"] = PICTURES, np.arange(12) % 2
    source, samples = read_all(tmp_path / "all.h5")
    assert_pixels(source, samples, PICTURES)
    assert samples[3].label == "1"
    folder = tmp_path / "pcam"
    folder.mkdir()
    for split, part in (("test", slice(8, 12)), ("train", slice(0, 8))):
        head = f"camelyonpatch_level_2_split_{split}"
        with h5py.File(folder / f"{head}_x.h5", "w") as file:
            file["x"] = PICTURES[part]
        with h5py.File(folder / f"{head}_y.h5", "w") as file:
            file["y"] = (np.arange(12)[part] % 2).reshape(-1, 1, 1, 1)
    source, samples = read_all(folder)
    assert_pixels(source, samples, [*PICTURES[8:], *PICTURES[:8]])
    assert [sample.split for sample in samples] == ["test"] * 4 + ["train"] * 8
    assert samples[5].label == "1"


def cifar_batch(path: Path, first: int, labels: dict[bytes, Any]) -> NDArray[np.uint8]:
    """Write a batch of two as CIFAR's are: bytes as keys, channels first."""
    images = np.random.default_rng(first).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    table = {
        b"data": images.transpose(0, 3, 1, 2).reshape(2, -1),
        b"filenames": [b"a_%d.png" % (first + number) for number in range(2)],
    } | labels
    path.write_bytes(pickle.dumps(table, protocol=2))
    return images


def test_cifar_is_a_source(tmp_path: Path) -> None:
    """Both sets, by their batches, without unpickling anything but arrays and plain values."""
    ten = tmp_path / "cifar-10-batches-py"
    ten.mkdir()
    meta = {b"label_names": [name.encode() for name in CLASSES]}
    (ten / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    pictures = [
        cifar_batch(ten / name, 2 * number, {b"labels": [number % 3, 2]})
        for number, name in enumerate(batches)
    ]
    source, samples = read_all(tmp_path)
    assert_pixels(source, samples, np.concatenate(pictures))
    assert samples[0].id == "train/a_0.png"
    assert (samples[2].label, samples[-1].split) == ("dog", "test")
    assert source.label_names() == CLASSES
    hundred = tmp_path / "cifar-100-python"
    hundred.mkdir()
    meta = {b"fine_label_names": [b"x", b"y"], b"coarse_label_names": [b"both"]}
    (hundred / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    for name in ("train", "test"):
        cifar_batch(hundred / name, 0, {b"fine_labels": [1, 0], b"coarse_labels": [0, 0]})
    source, samples = read_all(f"cifar:{hundred}")
    assert [(sample.label, sample.cells) for sample in samples[:2]] == [
        ("y", ("both",)),
        ("x", ("both",)),
    ]


class Harmful:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("echo harmed > harmed",)


def test_a_hostile_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of what it wants to run, which does not run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": Harmful()}, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="system"):
        read_plain_pickle(tmp_path / "batches.meta")
    with pytest.raises(UsageError, match="system"):
        fungi.open_source(f"cifar:{tmp_path}")
    assert not (tmp_path / "harmed").exists()


class Forged:
    """A pickle that would have NumPy take any bytes for an object's address, or all memory."""

    def __init__(self, *given: Any) -> None:
        self.given = given

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return np.ndarray, self.given


@pytest.mark.parametrize(
    "forged",
    [
        Forged((1,), np.dtype("O"), b"\x41" * 8),
        Forged((10**6, 10**6), np.dtype("u1")),
        np.array([None]),
        np.zeros(3, np.float64),
    ],
)
def test_a_pickle_makes_no_array_but_of_bytes(forged: Any, tmp_path: Path) -> None:
    """Each of the first two ends the process if NumPy is asked."""
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": forged}, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="array"):
        read_plain_pickle(tmp_path / "test_batch")


class Pictures(Dataset[Any]):
    """A dataset as torchvision's are."""

    classes = CLASSES

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.targets = [number % 3 for number in range(12)]

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> Any:
        pixels = PICTURES[number]
        as_tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        image = {
            "pillow": Image.fromarray(pixels),
            "array": pixels,
            "bytes": as_tensor,
            "float": as_tensor / 255,
        }.get(self.kind, as_tensor / 255 - 0.5)
        return image, self.targets[number]


@pytest.mark.parametrize("kind", ["pillow", "array", "bytes", "float"])
def test_a_torch_dataset_is_a_source(kind: str) -> None:
    """The pixels that it gives, whatever it gives them as; labels without reading an image."""
    source = DatasetSource(Pictures(kind), name=f"pictures-{kind}", ids=range(100, 112))
    samples = list(source)
    assert_pixels(source, samples, PICTURES)
    assert (samples[4].id, samples[4].label) == ("104", "dog")
    assert source.label_names() == CLASSES


def test_parts_of_datasets_have_their_labels() -> None:
    """Subsets, and several side by side."""
    both = ConcatDataset([Subset(Pictures("array"), [5, 1]), Pictures("array")])
    samples = list(DatasetSource(both, name="parts"))
    assert [sample.label for sample in samples[:3]] == ["owl", "dog", "cat"]
    birds = Pictures("array")
    birds.classes = ["wren", "owl", "crow"]
    mixed = DatasetSource(ConcatDataset([Pictures("array"), birds]), name="mixed")
    labels = [sample.label for sample in mixed]
    assert (labels[:3], labels[12:15]) == (CLASSES, ["wren", "owl", "crow"])
    assert mixed.label_names() == [*CLASSES, "wren", "crow"]
    names = list(DatasetSource(Subset(Pictures("array"), [5, 1]), name="subset"))
    assert [sample.label for sample in names] == ["owl", "dog"]


def plain_transform(image: Any) -> torch.Tensor:
    """Bring an image to 16 pixels."""
    return torch.from_numpy(np.array(image.resize((16, 16)))).permute(2, 0, 1).float() / 255


def test_a_dataset_is_extracted_and_resumed(tmp_path: Path) -> None:
    """From Python in one call; what is normalised already is a failed input with the reason."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, 8), torch.nn.Tanh())
    model = fungi.Encoder(net, plain_transform, name="for-datasets").model
    options = fungi.ExtractOptions(model=model, features=("embeddings",), limit=4)
    first = fungi.extract(Pictures("pillow"), tmp_path / "s.fungi", options)
    assert (first.samples, first.failed) == (4, 0)
    whole = fungi.ExtractOptions(model=model, features=("embeddings",))
    done = fungi.extract(Pictures("pillow"), tmp_path / "s.fungi", whole)
    assert (done.samples, done.images_computed) == (12, 8)
    odd = DatasetSource(Pictures("normalised"), name="odd")
    failed = fungi.extract(odd, tmp_path / "odd.fungi", whole)
    assert failed.failed == 12
    assert "normalised" in failed.failures[0].message


def test_datasets_of_one_class_are_told_apart(tmp_path: Path) -> None:
    """Train and test have the same numbers and class: neither is read, or known, as the other."""
    train, test = Pictures("array"), Subset(Pictures("array"), range(11, -1, -1))
    sources = [DatasetSource(one, name="pictures") for one in (train, test)]
    assert_pixels(sources[0], list(sources[0]), PICTURES)
    assert_pixels(sources[1], list(sources[1]), PICTURES[::-1])
    net = torch.nn.Conv2d(3, 4, 8, 8)
    model = fungi.Encoder(net, plain_transform, name="for-two").model
    options = fungi.ExtractOptions(model=model, features=("embeddings",))
    pillow = Pictures("pillow")
    fungi.extract(pillow, tmp_path / "s.fungi", options)
    assert fungi.extract(pillow, tmp_path / "s.fungi", options).images_computed == 0
    turned = DatasetSource(Subset(pillow, range(11, -1, -1)), name="Pictures")
    with pytest.raises(UsageError, match="have the names of other images"):
        fungi.extract(turned, tmp_path / "s.fungi", options)


def test_a_file_that_was_rewritten_gives_no_other_images(tmp_path: Path) -> None:
    """A row of it is another image now: the item fails, until the file is listed anew."""
    hub_parquet(tmp_path / "t.parquet", range(6))
    source, samples = read_all(tmp_path / "t.parquet")
    assert_pixels(source, samples, PICTURES[:6])
    hub_parquet(tmp_path / "t.parquet", range(5, -1, -1), more=[0] * 6)
    with pytest.raises(ItemError, match="another one than was listed"):
        pixels_of(source, samples[0])
    assert_pixels(*read_all(tmp_path / "t.parquet"), PICTURES[5::-1])


@pytest.mark.parametrize("name", ["a.npz", "train-images-idx3-ubyte", "a.h5"])
def test_another_order_in_a_file_of_the_same_size_is_seen(name: str, tmp_path: Path) -> None:
    """Whenever it was written: by what is at the file's ends."""

    def write(pictures: Any) -> None:
        new = tmp_path / f"new-{name}"
        if name.endswith("npz"):
            np.savez(new, images=pictures)
        elif name.endswith("h5"):
            with h5py.File(new, "w") as file:
                file["images"] = pictures
        else:
            idx(new, pictures[..., 0])
        new.replace(tmp_path / name)

    write(PICTURES)
    source, samples = read_all(tmp_path / name)
    before = os.stat(tmp_path / name)
    assert pixels_of(source, samples[0]).shape == PICTURES.shape[1:]
    write(PICTURES[::-1])
    os.utime(tmp_path / name, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert os.stat(tmp_path / name).st_size == before.st_size
    with pytest.raises(ItemError, match="other bytes"):
        pixels_of(source, samples[0])


def test_many_threads_read_many_files(tmp_path: Path) -> None:
    """More files than are kept open, by threads at once: each gets its own item."""
    for number in range(12):
        np.savez(tmp_path / f"{number}.npz", images=PICTURES[number][None])
    read = [read_all(tmp_path / f"{number}.npz") for number in range(12)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 12, 40).tolist():
            source, samples = read[number]
            if not np.array_equal(pixels_of(source, samples[0]), PICTURES[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_this_process_alone_has_is_not_sent_away(tmp_path: Path) -> None:
    """Neither a dataset nor a transform that cannot be pickled goes to decoding processes."""
    net = torch.nn.Conv2d(3, 4, 8, 8)
    model = fungi.Encoder(net, plain_transform, name="stays-here").model
    options = fungi.ExtractOptions(model=model, features=("embeddings",), decode_in="processes")
    with pytest.raises(UsageError, match="dataset that this process alone has"):
        fungi.extract(Pictures("pillow"), tmp_path / "s.fungi", options)
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    unsent = fungi.Encoder(net, lambda image: plain_transform(image), name="unsent").model
    odd = fungi.ExtractOptions(model=unsent, features=("embeddings",), decode_in="processes")
    with pytest.raises(UsageError, match="cannot be sent"):
        fungi.extract([tmp_path / "a.png"], tmp_path / "t.fungi", odd)
