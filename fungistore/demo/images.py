"""Photographs of textiles in three classes, from the wheel `conformal-clip-data` (MIT)."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from fungistore.demo.wheels import Pin, fetch_wheel, scratch_folder
from fungistore.errors import UsageError
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.user_cache import user_cache

CONFORMAL_CLIP_DATA = Pin(
    "conformal-clip-data",
    "0.1.4",
    "00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb",
    42_144_952,
)
TEXTILE_MEMBERS = "conformal_clip_data/data/textile_images/simulated/"


def textile_images(context: Context = DEFAULT) -> Path:
    """Return the folder of the images in the cache, `CLASS/FILE.jpg`: 1,000 nominal, 500, 500.

    Raises:
        FungiError: the wheel cannot be had.
    """
    folder = user_cache() / "textile"
    if folder.exists():  # it appears whole, by a rename
        return folder
    with zipfile.ZipFile(fetch_wheel(CONFORMAL_CLIP_DATA, context)) as wheel:
        images = [m for m in wheel.namelist() if m.startswith(TEXTILE_MEMBERS) and m[-4:] == ".jpg"]
        with scratch_folder() as scratch:
            wheel.extractall(scratch, images)
            try:
                return (scratch / TEXTILE_MEMBERS).rename(folder)
            except OSError:  # another process may have been faster
                if not folder.exists():
                    raise
    return folder


def textile_subset(per_class: int, destination: Path) -> Path:
    """Copy `per_class` evenly spaced images of each class to `destination/CLASS/FILE.jpg`.

    Copies, not links: what is done to them never reaches the cache. A destination that already
    holds this subset is left as it is.

    Raises:
        UsageError: the destination holds other files, or a class has fewer images.
        FungiError: the images cannot be had.
    """
    source, wanted = textile_images(), []
    for label in sorted(path.name for path in source.iterdir()):
        images = sorted(image.relative_to(source) for image in (source / label).iterdir())
        if not 1 <= per_class <= len(images):
            what, expected = f"no subset has that many images of {label}", f"1 to {len(images)}"
            raise UsageError(what, where="images of a class", expected=expected, found=per_class)
        wanted += [images[i * len(images) // per_class] for i in range(per_class)]
    files = (path for path in destination.rglob("*") if path.is_file())
    there = {path.relative_to(destination) for path in files if path.name[0] != "."}
    if there == set(wanted):
        return destination
    if there:
        what = "the folder for the subset holds other files; nothing was changed"
        raise UsageError(
            what,
            where=destination,
            hint="name another folder; delete this one only if nothing in it is yours",
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".partial-") as scratch:
        for image in wanted:
            Path(scratch, "subset", image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / image, Path(scratch, "subset", image))
        return Path(scratch, "subset").replace(destination)
