"""Data sets by name, in small: torchvision agrees, and what is not as published is said."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets as theirs
from click.testing import Result
from fungi_cli.main import app
from sklearn.model_selection import StratifiedShuffleSplit
from toy_sets import (
    CASES,
    WNIDS,
    WRITERS,
    lines,
    write,
    write_ade20k,
    write_cub,
    write_first_cars,
    write_flat_imagenet,
    write_imagenet,
    write_kaggle_ddsm,
    write_kaggle_imagenet,
    write_lists_of_ddsm,
    write_voc,
    write_voc_aug,
)
from typer.testing import CliRunner

import fungistore as fungi
from fungistore import find_modality, read_item
from fungistore.errors import UsageError
from fungistore.sources.opening import open_source
from fungistore.sources.reader import READERS
from fungistore.sources.roots import layout_of
from fungistore.sources.sample import Sample, Source, mask_words_of, source_remarks
from fungistore.sources.sets.comparing import differences
from fungistore.sources.sets.splitting import held_out
from plugins import install, write_plugin
from tiny_world import TINY

HAVE_CLASS_FOLDERS = ("eurosat", "aid", "imagenet", "cifar100")  # CIFAR-100 is found
Rows = list[tuple[str, int, str]]  # file name, class, split


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def opened(name: str, path: Path) -> Source:
    return open_source(f"{name}:{path}", modality=fungi.find_data_set(name).modality)


def numbered(source: Source) -> Rows:
    """Return what a store would have, in its order."""
    classes = source.label_names()
    return [(s.id, classes.index(str(s.label)), str(s.split)) for s in source]


def labelled(source: Source) -> list[tuple[str, str | None, str | None]]:
    return [(sample.id, sample.label, sample.split) for sample in source]


def said(root: Path, split: str, files: list[object], labels: list[int]) -> Rows:
    """Return what a reader of torchvision has."""
    paths = (Path(str(file)).relative_to(root).as_posix() for file in files)
    return [(path, label, split) for path, label in zip(paths, labels, strict=True)]


def theirs_of(name: str, top: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Return what the FUNGI paper's code has of a set, through torchvision's reader."""
    rows: Rows = []
    if name in ("dtd", "aircraft", "flowers102"):
        kind = {"dtd": theirs.DTD, "aircraft": theirs.FGVCAircraft}.get(name, theirs.Flowers102)
        monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_: True)
        for split in ("train", "val", "test"):
            one = kind(str(top), split)
            rows += said(root, split, one._image_files, one._labels)
    elif name == "food101":
        for split in ("train", "test"):
            food = theirs.Food101(str(top), split)
            rows += said(root, split, food._image_files, food._labels)
    elif name == "cars":
        for split in ("train", "test"):
            samples = theirs.StanfordCars(str(top), split)._samples
            rows += said(root, split, *map(list, zip(*samples, strict=True)))
    elif name == "pets":
        for ours, split in (("train", "trainval"), ("test", "test")):
            pets = theirs.OxfordIIITPet(str(top), split)
            rows += said(root, ours, pets._images, pets._labels)
    elif name == "imagenet":
        torch.save(
            ({wnid: words.split(", ") for wnid, words in WNIDS.items()}, []), root / "meta.bin"
        )
        for ours, split in (("train", "train"), ("test", "val")):
            images = theirs.ImageNet(str(root), split).imgs
            rows += said(root, ours, *map(list, zip(*images, strict=True)))
    else:
        sat = theirs.EuroSAT(str(top))
        splitter = StratifiedShuffleSplit(n_splits=1, train_size=0.8, random_state=42)
        sides = next(iter(splitter.split(sat.targets, sat.targets)))
        for split, side in zip(("train", "test"), sides, strict=True):
            images = [sat.samples[row] for row in side]
            rows += said(root, split, *map(list, zip(*images, strict=True)))
    return rows


@pytest.mark.parametrize(
    "name",
    ["cars", "dtd", "eurosat", "pets", "food101", "imagenet", "aircraft", "flowers102"],
)
def test_torchvision_has_the_same_images_in_the_same_order(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, classes by number, splits, and the order, which few-shot evaluations depend on."""
    root = WRITERS[name](tmp_path)
    ours = numbered(opened(name, tmp_path))
    assert ours == theirs_of(name, tmp_path, root, monkeypatch)
    assert len(ours) > 5


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_torchvision_has_the_same_pixels_of_cifar(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch after batch; classes are those of the archive, in its order."""
    WRITERS[name](tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    expected = [
        (split, label, np.asarray(image).tolist())
        for split in ("train", "test")
        for image, label in getattr(theirs, kind)(str(tmp_path), split == "train")
    ]
    source = opened(name, tmp_path)
    classes = source.label_names()
    images = [read_item(find_modality("image"), source.root, s.uri) for s in source]
    ours = [(s.split, classes.index(str(s.label)), i) for s, i in zip(source, images, strict=True)]
    assert [(split, label, image.tolist()) for split, label, image in ours] == expected
    assert source_remarks(source)[-1].startswith(f"{name}: {len(expected)} images listed, 60000")


def test_birds_come_in_the_order_of_their_list_a_split_after_the_other(tmp_path: Path) -> None:
    """CUB as the paper's own script has it; NABirds' classes are those of images, told apart."""
    write_cub(tmp_path)
    WRITERS["nabirds"](tmp_path)
    black, laysan = "001.Black_footed_Albatross", "002.Laysan_Albatross"
    assert labelled(opened("cub", tmp_path)) == [
        (f"images/{black}/Black_footed_Albatross_0009.jpg", "Black footed Albatross", "train"),
        (f"images/{black}/Black_footed_Albatross_0002.jpg", "Black footed Albatross", "train"),
        (f"images/{laysan}/Laysan_Albatross_0046.jpg", "Laysan Albatross", "train"),
        (f"images/{laysan}/Laysan_Albatross_0002.jpg", "Laysan Albatross", "train"),
        (f"images/{black}/Black_footed_Albatross_0046.jpg", "Black footed Albatross", "test"),
        (f"images/{laysan}/Laysan_Albatross_0009.jpg", "Laysan Albatross", "test"),
    ]
    source = opened("nabirds", tmp_path)
    assert source.label_names() == ["Oak Titmouse", "Osprey (300)", "Osprey (817)"]
    assert labelled(source) == [
        ("images/0817/b.jpg", "Osprey (817)", "train"),
        ("images/0817/c.jpg", "Osprey (817)", "train"),
        ("images/0300/d.jpg", "Osprey (300)", "train"),
        ("images/0295/a.jpg", "Oak Titmouse", "test"),
    ]


def test_class_names_are_words_in_the_official_order(tmp_path: Path) -> None:
    """Not sorted, and none twice."""
    expected = {
        "cars": ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van 2012"],
        "pets": ["Abyssinian", "American Bulldog", "Egyptian Mau"],
        "food101": ["Apple pie", "Waffles"],
        "aircraft": ["707-320", "F/A-18", "A340-200"],
        "imagenet": ["tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)"],
        "aptos": ["No DR", "Mild", "Moderate", "Severe", "Proliferative DR"],
        "ddsm": ["benign", "malignant"],
    }
    for name, names in expected.items():
        assert opened(name, WRITERS[name](tmp_path / name)).label_names() == names
    flowers = opened("flowers102", WRITERS["flowers102"](tmp_path)).label_names()
    assert len(set(flowers)) == 102
    assert (flowers[0], flowers[76]) == ("pink primrose", "passion flower")
    assert flowers == list(theirs.Flowers102.classes)


def test_the_validation_images_of_imagenet_may_be_in_one_folder(tmp_path: Path) -> None:
    """The devkit, or Kaggle's table, says what they are; rows come in the same order."""
    expected = labelled(opened("imagenet", write_imagenet(tmp_path / "a")))
    names = [(Path(id_).name, label, split) for id_, label, split in expected]
    for number, writer in enumerate((write_flat_imagenet, write_kaggle_imagenet)):
        source = opened("imagenet", writer(tmp_path / str(number)))
        found = [(Path(id_).name, label, split) for id_, label, split in labelled(source)]
        assert found == names
        assert source.label_names() == opened("imagenet", tmp_path / "a").label_names()
    shutil.rmtree(tmp_path / "0/imagenet/ILSVRC2012_devkit_t12", ignore_errors=True)
    flat = write_flat_imagenet(tmp_path / "b")
    shutil.rmtree(flat / "ILSVRC2012_devkit_t12")
    with pytest.raises(UsageError, match="nothing tells their classes"):
        list(opened("imagenet", flat))


def test_imagenet_without_a_devkit_has_wordnet_ids_for_classes(tmp_path: Path) -> None:
    """Its folders alone are enough."""
    root = write_imagenet(tmp_path)
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert opened("imagenet", root).label_names() == list(WNIDS)


def test_cars_are_read_as_first_released_too(tmp_path: Path) -> None:
    """One table for both splits."""
    assert numbered(opened("cars", write_first_cars(tmp_path))) == [
        ("car_ims/000001.jpg", 0, "train"),
        ("car_ims/000003.jpg", 1, "train"),
        ("car_ims/000002.jpg", 0, "test"),
    ]


def test_a_mammogram_is_malignant_where_one_finding_is(tmp_path: Path) -> None:
    """It is one image, found in folders of other names, and in those of Kaggle."""
    labels = ["malignant", "malignant", "benign", "benign", "benign"]
    splits = ["train"] * 3 + ["test"] * 2
    names = list(dict.fromkeys(name for _, name, _ in CASES))
    for place, writer in enumerate((WRITERS["ddsm"], write_kaggle_ddsm)):
        samples = list(opened("ddsm", writer(tmp_path / str(place))))
        assert [(s.label, s.split) for s in samples] == list(zip(labels, splits, strict=True))
        assert all(s.bytes for s in samples)
        assert all(name in sample.id for name, sample in zip(names, samples, strict=True))


def test_ddsm_is_read_by_the_lists_of_loff_tas_authors(tmp_path: Path) -> None:
    """The class is how a name begins: normal, or benign or cancer."""
    source = opened("ddsm", write_lists_of_ddsm(tmp_path))
    assert labelled(source) == [
        ("ddsm_raw/normals/normal_0003.png", "normal", "train"),
        ("ddsm_raw/cancer_12.png", "abnormal", "train"),
        ("ddsm_raw/benign_4.png", "abnormal", "val"),
        ("ddsm_raw/normals/normal_0001.png", "normal", "test"),
    ]
    assert source_remarks(source) == ["ddsm: 4 images listed, 10239 published"]


def reference_split(rows: int, share: float) -> list[str]:
    """The rule of the earlier code of LOFF-TA's authors, in its own order."""
    ids = list(range(rows))
    random.Random(42).shuffle(ids)
    held = ids[: int(rows * share)]
    sides = dict.fromkeys(held[: int(len(held) / 2)], "val")
    sides |= dict.fromkeys(held[int(len(held) / 2) :], "test")
    return [sides.get(row, "train") for row in range(rows)]


@pytest.mark.parametrize(("name", "share"), [("aptos", 0.3), ("isic", 0.2), ("aid", 0.2)])
def test_sets_without_a_split_have_that_of_loff_tas_authors(
    name: str, share: float, tmp_path: Path
) -> None:
    """Drawn with their seed, so that the whole set gives the counts that `fungi data` states."""
    source = opened(name, WRITERS[name](tmp_path))
    splits = [sample.split for sample in source]
    assert splits == reference_split(len(splits), share)
    assert set(splits) == {"train", "val", "test"}
    data_set = fungi.find_data_set(name)
    assert Counter(held_out(data_set.images, share)) == Counter(data_set.splits)
    assert "seed 42" in source_remarks(source)[0]


def test_classes_come_from_the_columns_of_the_ground_truth(tmp_path: Path) -> None:
    """Of ISIC's table; files are found in a folder inside one of its name."""
    samples = list(opened("isic", WRITERS["isic"](tmp_path)))
    assert samples[7].label == "Squamous cell carcinoma"
    assert samples[8].label == "Melanoma"
    assert all(sample.bytes for sample in samples)
    folder = "ISIC_2019_Training_Input/ISIC_2019_Training_Input"
    assert samples[1].id == f"{folder}/ISIC_0000001_downsampled.jpg"


def test_the_facts_are_those_of_the_papers() -> None:
    """Sizes of the FUNGI paper's code and of LOFF-TA's table; every metric is one of theirs."""
    images = {one.name: one.images for one in fungi.list_data_sets()}
    loff_ta = {"aptos": 3662, "aid": 10_000, "isic": 25_331, "nabirds": 48_562}
    assert images.items() >= loff_ta.items()
    assert images["cub"] == 11_788
    means = [one.name for one in fungi.list_data_sets() if one.metric.startswith("mean accuracy")]
    assert means == ["pets", "aircraft", "flowers102"]


@pytest.mark.parametrize("name", WRITERS)
def test_any_folder_around_a_set_will_do(name: str, tmp_path: Path) -> None:
    """Ids, order, labels and splits are the same from the folder of the archive and from above."""
    root = WRITERS[name](tmp_path / "data")
    for folder in root.rglob("*"):
        if folder.is_dir():
            (folder / ".DS_Store").write_bytes(b"x")
    expected = list(opened(name, root))
    assert expected == list(opened(name, tmp_path / "data"))
    assert expected
    assert all(sample.mtime for sample in expected)
    assert {sample.label for sample in expected} - {None} <= set(opened(name, root).label_names())


def test_a_path_is_relative_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands the tilde behind a colon."""
    write_cub(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    expected = list(opened("cub", tmp_path))
    for path in (Path("CUB_200_2011"), Path("."), Path("~") / tmp_path.name):
        assert list(opened("cub", path)) == expected


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_file_is_named_with_where_it_is_from(name: str, tmp_path: Path) -> None:
    """Each file and folder of the layout; an empty folder is missing too."""
    root = WRITERS[name](tmp_path)
    layout = fungi.find_data_set(name).layouts[0]
    for need, origin in layout.needs.items():
        path, aside = root / need, tmp_path / "aside"
        path.rename(aside)
        if need.endswith("/"):
            path.mkdir()
        with pytest.raises(UsageError, match="is not complete") as caught:
            opened(name, tmp_path)
        assert caught.value.where == root / need
        assert f"{need}, {origin}" in str(caught.value.expected)
        assert f"fungi data {name}" in str(caught.value.hint)
        if need.endswith("/"):
            path.rmdir()
        aside.rename(path)


@pytest.mark.parametrize("name", WRITERS)
def test_another_folder_is_no_data_set(name: str, tmp_path: Path) -> None:
    """The error says what should be there, and what is."""
    (tmp_path / "holiday").mkdir()
    with pytest.raises(UsageError, match="is not here") as caught:
        opened(name, tmp_path)
    assert caught.value.found == "holiday"
    for layout in fungi.find_data_set(name).layouts:
        assert ", ".join(layout.needs) in str(caught.value.expected)
    with pytest.raises(UsageError, match="no such folder"):
        opened(name, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no path"):
        open_source(f"{name}:", modality=fungi.find_data_set(name).modality)


def test_a_folder_too_deep_is_answered_with_the_right_one(tmp_path: Path) -> None:
    """As who gives the folder of images."""
    root = write_cub(tmp_path)
    with pytest.raises(UsageError, match="is not here") as caught:
        opened("cub", root / "images")
    assert caught.value.hint == f"give the folder above: cub:{root}"


def test_a_root_that_is_given_as_a_folder_is_answered_with_the_name(tmp_path: Path) -> None:
    """The warning names a set whose reader reads it: those of the layouts that only a root has."""
    told = [n for n in WRITERS if n not in HAVE_CLASS_FOLDERS and "-fold" not in n]
    writers = {name: WRITERS[name] for name in told}
    for name, writer in [*writers.items(), ("ddsm", write_kaggle_ddsm), ("cars", write_first_cars)]:
        root = writer(tmp_path / writer.__name__)
        assert (layout_of(str(root)) or [""])[0] == name
        assert list(opened(name, root))


def test_lists_of_windows_are_lists(tmp_path: Path) -> None:
    """Carriage returns, byte order marks and blank lines change nothing."""
    for name in ("cub", "aircraft", "aptos", "food101", "pets"):
        root = WRITERS[name](tmp_path / name)
        expected = list(opened(name, root))
        for file in [*root.rglob("*.txt"), *root.rglob("*.csv"), *root.rglob("*.json")]:
            text = file.read_bytes().replace(b"\n", b"\r\n")
            file.write_bytes(b"\xef\xbb\xbf" + text + b"\r\n")
        assert list(opened(name, root)) == expected
        assert opened(name, root).label_names()


def test_images_that_are_listed_and_missing_are_samples_and_are_counted(tmp_path: Path) -> None:
    """A run records them as failed; one remark names some of them."""
    root = write_cub(tmp_path)
    gone = "images/001.Black_footed_Albatross/Black_footed_Albatross_0009.jpg"
    (root / gone).unlink()
    source = opened("cub", tmp_path)
    samples: list[Sample] = list(source)
    assert [sample.id for sample in samples if sample.bytes is None] == [gone]
    assert source_remarks(source) == [
        "cub: 6 images listed, 11788 published (train 4/5994, test 2/5794)",
        f"cub: 1 listed image not there: {gone}",
    ]
    assert len(list(source)) == 6  # once more, and nothing is counted twice
    assert len(source_remarks(source)) == 2


@pytest.mark.parametrize(
    ("writer", "second"),
    [
        (write_voc, "SegmentationClass/2007_2.png"),
        (write_voc_aug, "SegmentationClassAug/2007_2.png"),
        (partial(write_voc, lists="sets"), "SegmentationClass/2007_2.png"),
        (partial(write_voc, train="trainaug", lists="sets"), "SegmentationClassAug/2007_2.png"),
    ],
)
def test_voc_is_known_by_its_folders_with_masks_and_splits(
    writer: Callable[[Path], Path], second: str, tmp_path: Path
) -> None:
    """No name is needed; official masks go before those of trainaug; there are no labels."""
    source = open_source(writer(tmp_path))
    found = [(s.split, s.label, s.cells[0]) for s in source]
    official = "SegmentationClass/200{}_1.png".format
    assert found == [
        ("train", None, official(7)),
        ("train", None, second),
        ("val", None, official(8)),
    ]
    words = mask_words_of(source)
    assert words is not None
    assert (len(words.classes), words.classes[15], words.void) == (21, "person", 255)


def test_ade20k_is_known_by_its_folders_and_0_is_void(tmp_path: Path) -> None:
    """Which a remark says, with what changes it."""
    source = open_source(write_ade20k(tmp_path))
    assert [s.cells[0] for s in source][::2] == [
        "annotations/training/ADE_train_1.png",
        "annotations/validation/ADE_val_1.png",
    ]
    words = mask_words_of(source)
    assert words is not None
    assert (len(words.classes), words.classes[:2], words.void) == (151, ("other", "wall"), 0)
    assert "--void none" in source_remarks(source)[0]


def damage(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text)


def test_damaged_lists_are_errors_that_say_where(tmp_path: Path) -> None:
    """Cut lines, entries without a partner, numbers beyond the classes, ways out, other formats."""
    root = write_cub(tmp_path)
    cases = {
        "a line of a list is cut": ("images.txt", "1 a.jpg\n2\n"),
        "no entry for '1'": ("train_test_split.txt", "7 1\n"),
        "no entry for '2'": ("classes.txt", "1 001.Only\n"),
        "'images/../../secret.jpg' is no path": ("images.txt", "1 ../../secret.jpg\n"),
        "'images//etc/a.jpg'": ("images.txt", "1 /etc/a.jpg\n"),
        "is no path below this folder": ("images.txt", "1 001.B\\a.jpg\n"),
        "cannot be read": ("images.txt", ""),
    }
    for words, (file, text) in cases.items():
        shutil.rmtree(root)
        write_cub(tmp_path)
        damage(root, file, text)
        if not text:
            (root / file).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UsageError) as caught:
            list(opened("cub", tmp_path))
        assert words in str(caught.value), words
    flowers = WRITERS["flowers102"](tmp_path)
    damage(flowers, "setid.mat", "MATLAB 5.0 MAT-file, cut")
    with pytest.raises(UsageError, match="MATLAB file cannot be read"):
        list(opened("flowers102", flowers))
    food = WRITERS["food101"](tmp_path)
    damage(food, "meta/train.json", '{"waffles": ["waf')
    with pytest.raises(UsageError, match="lists of Food-101 cannot be used"):
        list(opened("food101", food))
    eyes = WRITERS["aptos"](tmp_path / "eyes")
    damage(eyes, "train.csv", "id_code,diagnosis\na,9\n")
    with pytest.raises(UsageError, match="no entry for '9'"):
        list(opened("aptos", eyes))
    damage(eyes, "train.csv", "id_code\na\n")
    with pytest.raises(UsageError, match="lacks a column"):
        list(opened("aptos", eyes))


def test_what_is_as_published_has_no_difference() -> None:
    """Splits are compared by name; the layout whose splits are unknown by its sum."""
    cub = fungi.find_data_set("cub")
    assert differences(cub, dict(cub.splits), []) == []
    assert differences(cub, {"train": 5794, "test": 5994}, []) == [
        "cub: 11788 images listed, 11788 published (train 5794/5994, test 5994/5794)"
    ]
    assert differences(cub, {"train": 7, "val": 3}, [], images=10) == []


def test_a_set_of_a_plug_in_is_one_class_and_one_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of docs/data.md is opened by name, listed behind ours, and checked."""
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    source = page.partition('```python title="leaves.py"\n')[2].partition("```")[0]
    folder = tmp_path / "site"
    write_plugin(folder, "leaves", source, {"fungistore.readers": {"leaves": "leaves:Leaves"}})
    install(monkeypatch, folder, "leaves", READERS)
    names = [f"{label}_{n:03d}.jpg" for n in range(50) for label in ("oak", "elm")]
    lists = {"leaves.txt": lines(*(f"{name} {name[:3]}" for name in names))}
    root = write(tmp_path / "leaves", lists, names)
    assert fungi.list_data_sets()[-1].title == "Leaves of Two Trees"
    assert opened("leaves", tmp_path).label_names() == ["oak", "elm"]
    found = fungi.check_data_set("leaves", tmp_path)
    assert found.is_as_published
    assert (found.root, found.splits) == (str(root), {"train": 80, "test": 20})
    done = run("data", "leaves", str(tmp_path))
    assert (done.exit_code, done.output.partition(" in ")[0]) == (0, "100 images as expected")
    (root / "oak_007.jpg").unlink()
    found = fungi.check_data_set("leaves", str(tmp_path))
    assert (found.images, found.missing, found.is_as_published) == (100, 1, False)
    assert found.differences == ("leaves: 1 listed image not there: oak_007.jpg",)


def test_the_command_lists_describes_and_checks(tmp_path: Path) -> None:
    """What is not as published exits 1; JSON says the same."""
    listed = run("data").output
    for one in fungi.list_data_sets():
        assert f"{one.name} " in listed
        assert one.page in listed
    cars = fungi.find_data_set("cars")
    described = run("data", "cars").output
    assert all(need in described for layout in cars.layouts for need in layout.needs)
    assert len(json.loads(run("data", "--json").output)["data_sets"]) == len(WRITERS)
    write_cub(tmp_path)
    done = run("data", "cub", str(tmp_path))
    assert (done.exit_code, done.output.count("differs")) == (1, 2)
    assert json.loads(run("data", "cub", str(tmp_path), "--json").output)["images"] == 6


def test_a_typing_error_in_a_name_is_answered_with_the_right_one() -> None:
    """And what is no name at all, with the list."""
    with pytest.raises(UsageError, match="unknown data set") as caught:
        fungi.find_data_set("flower102")
    assert caught.value.hint == "did you mean flowers102?"


@pytest.mark.slow
def test_an_evaluation_has_the_sets_own_split_and_first_shots(
    tmp_path: Path, tiny_weights: Path
) -> None:
    """From the archive's folder through extract to kNN: train and test are the list's."""
    write_cub(tmp_path)
    options = fungi.ExtractOptions(
        model=TINY, weights=str(tiny_weights), image_size=32, features=("embeddings",)
    )
    store = tmp_path / "cub.fungi"
    fungi.extract(f"cub:{tmp_path}", store, options)
    samples = fungi.Store.open(store).samples
    assert samples.labels().tolist() == [0, 0, 1, 1, 0, 1]
    assert fungi.status(store).splits == {"train": 4, "test": 2}
    again = fungi.extract(f"cub:{tmp_path / 'CUB_200_2011'}", store, options)
    assert (again.samples, again.units_computed) == (6, 0)
    knn = fungi.KnnOptions(k=1, shots=1, shot_rule="first")
    (score,) = fungi.evaluate_knn(store, knn).scores
    assert (score.n_train, score.n_test) == (2, 2)
