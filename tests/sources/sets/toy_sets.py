"""Data sets in small: the layouts and file formats of the real archives, with a few images each."""

from __future__ import annotations

import json
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

FLOWERS = {"trnid": [7, 2, 5], "valid": [1, 6], "tstid": [8, 3, 4]}
FLOWER_LABELS = [77, 1, 102, 77, 1, 5, 102, 5]
WNIDS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane"}
DEVKIT_NUMBERS = {"n03126707": 1, "n01440764": 2, "n02012849": 3}  # not in the order of the ids


def _jpeg() -> bytes:
    out = BytesIO()
    Image.new("RGB", (2, 2), (200, 30, 60)).save(out, "JPEG")
    return out.getvalue()


JPEG = _jpeg()


def write(root: Path, lists: Mapping[str, str], images: Iterable[str]) -> Path:
    """Write the files of a set; returns its root."""
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG)
    for name, text in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    return root


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def write_cub(root: Path) -> Path:
    """CUB_200_2011: two classes, test images between those of train."""
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    paths = [f"{name}/{name[4:]}_{n:04d}.jpg" for name in names for n in (46, 9, 2)]
    lists = {
        "images.txt": lines(*(f"{n} {path}" for n, path in enumerate(paths, 1))),
        "image_class_labels.txt": lines("1 1", "2 1", "3 1", "4 2", "5 2", "6 2"),
        "classes.txt": lines(*(f"{n} {name}" for n, name in enumerate(names, 1))),
        "train_test_split.txt": lines("1 0", "2 1", "3 1", "4 1", "5 0", "6 1"),
    }
    return write(root / "CUB_200_2011", lists, (f"images/{path}" for path in paths))


def write_nabirds(root: Path) -> Path:
    """Nabirds: classes above the ones of images, numbers out of order, names twice, blanks."""
    paths = ["0817/b.jpg", "0295/a.jpg", "0817/c.jpg", "0300/d.jpg"]
    keys = [f"0000139e-21dc-4d0c-bfe1-4cae3c85c8{n:02d}" for n in range(4)]
    classes = ["817", "295", "817", "300"]
    lists = {
        "images.txt": lines(*map(" ".join, zip(keys, paths, strict=True))),
        "image_class_labels.txt": lines(*map(" ".join, zip(keys, classes, strict=True))),
        "classes.txt": lines(
            "0 Birds", "1 Ducks, Geese, and Swans", "295 Oak Titmouse", "300 Osprey", "817 Osprey"
        ),
        "train_test_split.txt": lines(*map(" ".join, zip(keys, "1011", strict=True))),
        "hierarchy.txt": lines("1 0", "295 1", "300 1", "817 1"),
    }
    return write(root / "nabirds", lists, (f"images/{path}" for path in paths))


def records(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Return a MATLAB array of structs, as savemat writes it."""
    rows = list(rows)
    array = np.zeros((1, len(rows)), [(name, object) for name in rows[0]])
    for place, row in enumerate(rows):
        for name, value in row.items():
            array[0, place][name] = value
    return array


def write_cars(root: Path) -> Path:
    """Stanford Cars as torchvision reads it."""
    root = root / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van 2012"]
    box = {f"bbox_{corner}": 1 for corner in ("x1", "y1", "x2", "y2")}
    sides = {"devkit/cars_train_annos.mat": [3, 1, 2, 1], "cars_test_annos_withlabels.mat": [2, 3]}
    for file, labels in sides.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        found = (
            box | {"class": label, "fname": f"{n:05d}.jpg"} for n, label in enumerate(labels, 1)
        )
        savemat(root / file, {"annotations": records(found)})
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array([names], object)})
    images = [f"cars_train/{n:05d}.jpg" for n in range(1, 5)]
    return write(root, {}, [*images, "cars_test/00001.jpg", "cars_test/00002.jpg"])


def write_first_cars(root: Path) -> Path:
    """Stanford Cars as they were first released."""
    rows = [("000001.jpg", 1, 0), ("000002.jpg", 1, 1), ("000003.jpg", 2, 0)]
    annotations = records(
        {"relative_im_path": f"car_ims/{name}", "class": label, "test": side}
        for name, label, side in rows
    )
    names = np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], object)
    write(root, {}, (f"car_ims/{name}" for name, _, _ in rows))
    savemat(root / "cars_annos.mat", {"annotations": annotations, "class_names": names})
    return root


def write_dtd(root: Path) -> Path:
    """DTD as torchvision unpacks it, two folders deep, with another partition beside the first."""
    sides = {
        "train1": ["woven/woven_2.jpg", "banded/banded_9.jpg"],
        "val1": ["banded/banded_1.jpg", "woven/woven_1.jpg"],
        "test1": ["polka-dotted/polka-dotted_3.jpg", "woven/woven_3.jpg", "banded/banded_2.jpg"],
    }
    # torchvision numbers the classes of each split by itself: every class is in each
    for paths in sides.values():
        paths += [
            f"{name}/{name}_{len(paths)}_{paths[0].split('/')[0]}.jpg"
            for name in ("polka-dotted", "banded", "woven")
        ]
    lists = {f"labels/{name}.txt": lines(*paths) for name, paths in sides.items()}
    lists["labels/train2.txt"] = lines("woven/woven_3.jpg")
    every = (f"images/{path}" for paths in sides.values() for path in paths)
    return write(root / "dtd" / "dtd", lists, every)


def write_eurosat(root: Path) -> Path:
    """EuroSAT: ten classes of five images, numbered without leading zeros."""
    names = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"]
    names += ["Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]
    images = [f"{name}/{name}_{n}.jpg" for name in names for n in (1, 2, 10, 11, 3)]
    return write(root / "eurosat" / "2750", {}, images)


def write_cifar10(root: Path) -> Path:
    """CIFAR-10: five batches of two images and one of test, pickled as Python 2 did."""
    root = root / "cifar-10-batches-py"
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    batches = {name: cifar_batch(seed, b"labels", 3) for seed, name in enumerate(names)}
    return _pickled(root, batches | {"batches.meta": {b"label_names": [b"plane", b"car", b"bee"]}})


def write_cifar100(root: Path) -> Path:
    """CIFAR-100, whose classes are in groups."""
    batches = {
        name: cifar_batch(seed, b"fine_labels", 3) | {b"coarse_labels": [1, 0]}
        for seed, name in enumerate(("train", "test"))
    }
    meta = {b"fine_label_names": [b"apple", b"wolf", b"bee"], b"coarse_label_names": [b"a", b"b"]}
    return _pickled(root / "cifar-100-python", batches | {"meta": meta})


def cifar_batch(seed: int, labels: bytes, classes: int) -> dict[bytes, Any]:
    """Return a batch of two images."""
    random = np.random.default_rng(seed)
    return {
        b"data": random.integers(0, 256, (2, 3072), dtype=np.uint8),
        labels: random.integers(0, classes, 2).tolist(),
        b"filenames": [f"image_s_{seed}{number}.png".encode() for number in range(2)],
    }


class _Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Pickles bytes as what Python 2 called text, which the archives have."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_bytes(self, text: bytes) -> None:
        """Write a text of Python 2."""
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch[bytes] = save_bytes


def _pickled(root: Path, tables: Mapping[str, Any]) -> Path:
    root.mkdir(parents=True)
    for name, table in tables.items():
        with (root / name).open("wb") as file:
            _Python2(file, 2).dump(table)
    return root


def write_pets(root: Path) -> Path:
    """Oxford-IIIT Pet: the lists' four columns, and files that are no images of theirs."""
    trainval = ["Abyssinian_100 1 1 1", "american_bulldog_2 2 2 1", "Abyssinian_3 1 1 1"]
    trainval += ["Egyptian_Mau_9 3 1 2"]
    test = ["american_bulldog_1 2 2 1", "Egyptian_Mau_1 3 1 2", "Abyssinian_1 1 1 1"]
    images = [f"images/{row.split()[0]}.jpg" for row in trainval + test]
    lists = {
        "annotations/trainval.txt": lines(*trainval),
        "annotations/test.txt": lines(*test),
        "annotations/list.txt": lines("#Image CLASS-ID SPECIES BREED ID"),
        "images/Abyssinian_100.mat": "",
    }
    return write(root / "oxford-iiit-pet", lists, images)


def write_food101(root: Path) -> Path:
    """Food-101, whose JSON lists classes in another order than the class list."""
    train = {"waffles": ["waffles/9", "waffles/10"], "apple_pie": ["apple_pie/5"]}
    test = {"waffles": ["waffles/1"], "apple_pie": ["apple_pie/7", "apple_pie/6"]}
    lists = {
        "meta/classes.txt": lines("apple_pie", "waffles"),
        "meta/labels.txt": lines("Apple pie", "Waffles"),
        "meta/train.json": json.dumps(train),
        "meta/test.json": json.dumps(test),
    }
    every = [path for paths in (*train.values(), *test.values()) for path in paths]
    return write(root / "food-101", lists, (f"images/{path}.jpg" for path in every))


def write_aircraft(root: Path) -> Path:
    """FGVC-Aircraft: variants out of alphabetical order, names with blanks and slashes."""
    sides = {
        "train": ["1025794 F/A-18", "1340192 707-320", "0056978 A340-200"],
        "val": ["1236289 707-320"],
        "test": ["1514522 A340-200", "0747566 F/A-18", "0000001 707-320"],
    }
    lists = {f"data/images_variant_{split}.txt": lines(*rows) for split, rows in sides.items()}
    lists["data/variants.txt"] = lines("707-320", "F/A-18", "A340-200")
    every = (f"data/images/{row[:7]}.jpg" for rows in sides.values() for row in rows)
    return write(root / "fgvc-aircraft-2013b", lists, every)


def write_flowers102(root: Path) -> Path:
    """Flowers-102, its numbers out of order."""
    root = write(root / "flowers-102", {}, (f"jpg/image_{n:05d}.jpg" for n in range(1, 9)))
    savemat(root / "imagelabels.mat", {"labels": np.array([FLOWER_LABELS])})
    savemat(root / "setid.mat", {name: np.array([rows]) for name, rows in FLOWERS.items()})
    return root


def write_imagenet(root: Path) -> Path:
    """ImageNet as torchvision unpacks it, with the devkit's archive."""
    root = root / "imagenet"
    images = [f"train/{wnid}/{wnid}_{n}.JPEG" for wnid in WNIDS for n in (10026, 2)]
    images += [
        f"val/{wnid}/ILSVRC2012_val_{n:08d}.JPEG"
        for wnid, n in zip((*WNIDS, "n01440764"), (3, 1, 4, 2), strict=True)
    ]
    write(root, {"train/n01440764.tar": ""}, images)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        for name, content in devkit().items():
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return root


def write_flat_imagenet(root: Path) -> Path:
    """The same with the devkit unpacked, and the validation images in one folder."""
    root = write_imagenet(root)
    for image in sorted((root / "val").glob("*/*")):
        image.rename(root / "val" / image.name)
    for folder in (root / "val").glob("n*"):
        folder.rmdir()
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    (root / "ILSVRC2012_devkit_t12" / "data").mkdir(parents=True)
    for name, content in devkit().items():
        (root / "ILSVRC2012_devkit_t12" / "data" / name).write_bytes(content)
    return root


def write_kaggle_imagenet(root: Path) -> Path:
    """The same as Kaggle has it."""
    flat = write_flat_imagenet(root)
    base = root / "kaggle"
    (base / "ILSVRC/Data/CLS-LOC").mkdir(parents=True)
    for side in ("train", "val"):
        (flat / side).rename(base / "ILSVRC/Data/CLS-LOC" / side)
    solution = [
        f"ILSVRC2012_val_{n:08d},{wnid} 1 2 3 4 {wnid} 1 2 3 4 "
        for n, wnid in enumerate(("n02012849", "n01440764", "n01440764", "n03126707"), 1)
    ]
    lists = {
        "LOC_synset_mapping.txt": lines(*map(" ".join, WNIDS.items())),
        "LOC_val_solution.csv": lines("ImageId,PredictionString", *solution),
    }
    return write(base, lists, ())


def devkit() -> dict[str, bytes]:
    """Return the files of the devkit's data/ that name the classes."""
    rows = [
        {
            "ILSVRC2012_ID": number,
            "WNID": wnid,
            "words": WNIDS[wnid],
            "gloss": "",
            "num_children": 0,
        }
        for wnid, number in DEVKIT_NUMBERS.items()
    ]
    rows.append(rows[0] | {"ILSVRC2012_ID": 1001, "WNID": "n00001740", "num_children": 3})
    out = BytesIO()
    savemat(out, {"synsets": records(rows).T})
    truth = ["n02012849", "n01440764", "n01440764", "n03126707"]
    numbers = lines(*(str(DEVKIT_NUMBERS[wnid]) for wnid in truth))
    return {"meta.mat": out.getvalue(), "ILSVRC2012_validation_ground_truth.txt": numbers.encode()}


def write_aptos(root: Path) -> Path:
    """APTOS: twenty eyes of five grades."""
    rows = [(f"{n:012x}", n % 5) for n in range(20)]
    lists = {
        "train.csv": lines("id_code,diagnosis", *(f"{name},{grade}" for name, grade in rows)),
        "test.csv": lines("id_code", "ffff"),
    }
    return write(root, lists, (f"train_images/{name}.png" for name, _ in rows))


def write_isic(root: Path) -> Path:
    """ISIC 2019: ten lesions, a column a class, the folder inside one of its name."""
    names = [f"ISIC_{n:07d}" + "_downsampled" * (n % 2) for n in range(10)]
    kinds = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    rows = [
        ",".join([name, *("1.0" if n % 8 == place else "0.0" for place in range(9))])
        for n, name in enumerate(names)
    ]
    lists = {"ISIC_2019_Training_GroundTruth.csv": lines(",".join(["image", *kinds]), *rows)}
    folder = "ISIC_2019_Training_Input/ISIC_2019_Training_Input"
    return write(root, lists, (f"{folder}/{name}.jpg" for name in names))


def write_aid(root: Path) -> Path:
    """AID: thirty classes of two images."""
    from fungistore.sources.sets.aid import Aid

    names = [need.rstrip("/") for need in Aid.data_set.layouts[0].needs]
    images = (f"{name}/{name.lower()}_{n}.jpg" for name in names for n in (1, 2))
    return write(root / "AID", {}, images)


CASES = [  # table, mammogram, pathology
    ("mass_case_description_train_set", "Mass-Training_P_00001_LEFT_CC", "BENIGN"),
    ("mass_case_description_train_set", "Mass-Training_P_00001_LEFT_CC", "MALIGNANT"),
    ("mass_case_description_train_set", "Mass-Training_P_00004_RIGHT_MLO", "MALIGNANT"),
    ("calc_case_description_train_set", "Calc-Training_P_00005_RIGHT_CC", "BENIGN"),
    ("mass_case_description_test_set", "Mass-Test_P_00016_LEFT_CC", "BENIGN"),
    ("calc_case_description_test_set", "Calc-Test_P_00038_LEFT_CC", "BENIGN_WITHOUT_CALLBACK"),
]


def write_ddsm(root: Path) -> Path:
    """CBIS-DDSM as its downloader writes it: folders of other names than in the tables."""
    images = {f"CBIS-DDSM/{name}/07-20-2016-DDSM-1/1.0-full-2/1-1.dcm" for _, name, _ in CASES}
    return write(root, _case_tables(), sorted(images))


def write_kaggle_ddsm(root: Path) -> Path:
    """CBIS-DDSM as JPEGs, in folders of series."""
    tables = {f"csv/{name}": text for name, text in _case_tables().items()}
    tables["csv/dicom_info.csv"] = lines("file_path,image_path,PatientID")
    return write(root, tables, sorted({f"jpeg/1.3.{name}/1-249.jpg" for _, name, _ in CASES}))


def _case_tables() -> dict[str, str]:
    header = "patient_id,pathology,image file path,cropped image file path"
    tables: dict[str, list[str]] = {}
    for table, name, pathology in CASES:
        path = f"{name}/1.3.6/1.3.{name}/000000.dcm"
        row = f'{name.split("_")[2]},{pathology},{path},"{name}_1/1.3.6/1/000001.dcm\n"'
        tables.setdefault(f"{table}.csv", [header]).append(row)
    return {name: lines(*rows) for name, rows in tables.items()}


def write_lists_of_ddsm(root: Path) -> Path:
    """DDSM as LOFF-TA's authors have it."""
    sides = {
        "train": ["normals/normal_0003.png", "cancer_12.png"],
        "val": ["benign_4.png"],
        "test": ["normals/normal_0001.png"],
    }
    lists = {f"ddsm_raw_image_lists/{split}.txt": lines(*rows) for split, rows in sides.items()}
    images = (f"ddsm_raw/{row}" for rows in sides.values() for row in rows)
    return write(root / "DDSM", lists, images)


def write_masks(root: Path, names: Iterable[str]) -> None:
    """Masks of two classes for the images of two pixels a side."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array([[0, 1], [1, 255]], np.uint8)).save(root / name)


def write_voc(root: Path, train: str = "train", lists: str = "ImageSets/Segmentation") -> Path:
    """Pascal VOC's layout, or that of open-hummingbird-eval; the official masks, and others."""
    images = "JPEGImages" if lists.startswith("Image") else "images"
    texts = {f"{lists}/{train}.txt": lines("2007_1", "2007_2"), f"{lists}/val.txt": lines("2008_1")}
    top = root / ("VOCdevkit/VOC2012" if lists.startswith("Image") else "VOCSegmentation")
    write_masks(top, (f"SegmentationClass/{one}.png" for one in ("2007_1", "2008_1")))
    second = "SegmentationClassAug" if train == "trainaug" else "SegmentationClass"
    write_masks(top, [f"{second}/2007_2.png"])
    return write(top, texts, (f"{images}/{name}.jpg" for name in ("2007_1", "2007_2", "2008_1")))


def write_voc_aug(root: Path) -> Path:
    """The same with the list trainaug."""
    return write_voc(root, "trainaug")


def write_ade20k(root: Path) -> Path:
    """ADE20K's four folders."""
    top = root / "ADEChallengeData2016"
    names = ("training/ADE_train_1", "training/ADE_train_2", "validation/ADE_val_1")
    write_masks(top, (f"annotations/{name}.png" for name in names))
    return write(top, {}, (f"images/{name}.jpg" for name in names))


def write_esc50(root: Path) -> Path:
    """ESC-50's archive: clips of two categories in five folds, in no order of classes."""
    header = "filename,fold,target,category,esc10,src_file,take"
    clips = [(fold, number) for fold in (1, 2, 3, 4, 5) for number in (1, 0)]
    names = [f"{fold}-{100 + number}-A-{number}.wav" for fold, number in clips]
    words = ("dog", "rooster")
    rows = (
        f"{name},{fold},{number},{words[number]},True,{100 + number},A"
        for name, (fold, number) in zip(names, clips, strict=True)
    )
    lists = {"meta/esc50.csv": lines(header, *rows)}
    return write(root / "ESC-50-master", lists, (f"audio/{name}" for name in names))


def write_speech_commands(root: Path) -> Path:
    """Speech Commands 0.02: two words, noise, and the two lists."""
    clips = [f"{word}/{name}_nohash_0.wav" for word in ("yes", "no") for name in "abcd"]
    lists = {
        "validation_list.txt": lines("yes/b_nohash_0.wav", "no/b_nohash_0.wav"),
        "testing_list.txt": lines("yes/a_nohash_0.wav"),
        "yes/notes.txt": "",
    }
    files = [*clips, "_background_noise_/pink_noise.wav"]
    return write(root / "speech_commands_v0.02", lists, files)


WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "cub": write_cub,
    "cars": write_cars,
    "dtd": write_dtd,
    "eurosat": write_eurosat,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "pets": write_pets,
    "food101": write_food101,
    "imagenet": write_imagenet,
    "aircraft": write_aircraft,
    "flowers102": write_flowers102,
    "aptos": write_aptos,
    "aid": write_aid,
    "ddsm": write_ddsm,
    "isic": write_isic,
    "nabirds": write_nabirds,
    "voc-aug": write_voc_aug,
    "voc": write_voc,
    "ade20k": write_ade20k,
    "esc50": write_esc50,
    **{f"esc50-fold{fold}": write_esc50 for fold in (2, 3, 4, 5)},
    "speech-commands": write_speech_commands,
}
