"""A folder as a reader would have it: images in class folders, and another photo to search with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from fungistore.demo.images import textile_images, textile_subset
from fungistore.demo.options import DemoOptions
from fungistore.demo.sounds import MANIFEST, QUERY, prompts, whisper_tiny_folder
from fungistore.demo.texts import NEWSGROUPS, minilm_folder, write_corpus
from fungistore.demo.weights import TIMM_NAME, dinov2_vits14_weights
from fungistore.errors import UsageError
from fungistore.machine.context import DEFAULT, Context

POSTS, POSTS_OF_A_CLASS = "posts.csv", (30, 15)  # in train and test
SIZE, LENGTH = ("--image-size", "224"), ("--max-length", "64")
SPOKEN, PROMPTS, HEARD = "sounds", 60, "vm-goodbye"  # the last is what is searched with
SECONDS = ("--max-length", "400")  # of ten milliseconds
SENTENCE = "the shuttle will reach orbit on thursday"
OF_THE_PHOTO = "local"  # its class: with a small defect, which makes a search interesting


@dataclass(frozen=True)
class Demo:
    """What `prepare_demo` laid out.

    Attributes:
        folder: where it is.
        images: the folder of images in it, `CLASS/FILE.jpg`.
        photo: another image of the same kind, which is not among them.
        model: timm's name of the backbone.
        weights: its pretrained weights, in the user's cache.
    """

    folder: Path
    images: Path
    photo: Path
    model: str
    weights: Path

    @property
    def settings(self) -> tuple[str, ...]:
        """What an extraction of it is told of the model, as words of a command line."""
        return "--model", self.model, "--weights", str(self.weights.absolute()), *SIZE


def prepare_demo(
    folder: str | Path, options: DemoOptions = DemoOptions(), *, context: Context = DEFAULT
) -> Demo:
    """Fetch real images and real weights, 130 MB once, and lay the images out in a folder.

    Args:
        folder: a new or an empty one, or one that the demo has been in before.
        options: how many images.
        context: is told of downloads.

    Raises:
        UsageError: the folder holds files that the demo did not put there; they stay as they are.
        FungiError: the data cannot be had; what to do is said.
    """
    place = _place(folder, "images")
    weights = dinov2_vits14_weights(context)
    context.stop_if_asked()
    source = textile_images(context)
    images = textile_subset(options.images, place / "images")
    photo = place / "photo.jpg"
    if not photo.exists():
        used = {path.name for path in (images / OF_THE_PHOTO).iterdir()}
        others = sorted((source / OF_THE_PHOTO).iterdir())
        shutil.copyfile(next(path for path in others if path.name not in used), photo)
    return Demo(place, images, photo, TIMM_NAME, weights)


@dataclass(frozen=True)
class TextDemo:
    """What `prepare_text_demo` laid out.

    Attributes:
        folder: where it is.
        table: newsgroup posts in it, a .csv of id, text, label, split.
        query: a sentence that is none of them.
        model: what `--model` takes, a directory in the user's cache.
    """

    folder: Path
    table: Path
    query: str
    model: str

    @property
    def settings(self) -> tuple[str, ...]:
        """What an extraction of it is told of the model, as words of a command line."""
        return "--model", self.model, *LENGTH


def prepare_text_demo(folder: str | Path, *, context: Context = DEFAULT) -> TextDemo:
    """Fetch real posts and a real encoder, 120 MB once, and write a table of some of the posts.

    Args:
        folder: a new or an empty one, or one that the demo has been in before.
        context: is told of downloads.

    Raises:
        UsageError: the folder holds files that the demo did not put there; they stay as they are.
        FungiError: the data cannot be had; what to do is said.
    """
    place = _place(folder, POSTS)
    model = minilm_folder(context)
    context.stop_if_asked()
    place.mkdir(parents=True, exist_ok=True)
    table = place / POSTS
    if not table.exists():
        write_corpus(NEWSGROUPS, table, POSTS_OF_A_CLASS, context)
    return TextDemo(place, table, SENTENCE, f"text:{model}")


@dataclass(frozen=True)
class SoundDemo:
    """What `prepare_sound_demo` laid out.

    Attributes:
        folder: where it is.
        table: spoken prompts in it, a .csv of path, label, split.
        query: a recording that is none of them.
        model: what `--model` takes, a directory in the user's cache.
    """

    folder: Path
    table: Path
    query: Path
    model: str

    @property
    def settings(self) -> tuple[str, ...]:
        """What an extraction of it is told of the model, as words of a command line."""
        return "--model", self.model, *SECONDS


def prepare_sound_demo(folder: str | Path, *, context: Context = DEFAULT) -> SoundDemo:
    """Fetch spoken prompts and a real Whisper, 107 MB once, and lay some prompts out in a folder.

    The prompts are in packages of Debian: `apt-get` and `dpkg-deb` of Debian 12 fetch them.

    Args:
        folder: a new or an empty one, or one that the demo has been in before.
        context: is told of downloads.

    Raises:
        UsageError: the folder holds files that the demo did not put there; they stay as they are.
        FungiError: the data cannot be had; what to do is said.
    """
    place = _place(folder, SPOKEN)
    model = whisper_tiny_folder(context)
    context.stop_if_asked()
    spoken = place / SPOKEN
    if not (spoken / MANIFEST).exists():
        prompts(spoken, context, count=PROMPTS, heard=HEARD)
    return SoundDemo(place, spoken / MANIFEST, spoken / QUERY, f"audio:{model}")


def _place(folder: str | Path, own: str) -> Path:
    """Return a folder that is new, empty, or has the demo's own files.

    Raises:
        UsageError: it has others.
    """
    place = Path(folder)
    names = {path.name for path in place.iterdir()} if place.is_dir() else set()
    is_new = all(name[0] == "." for name in names)
    if place.is_file() or not (own in names or is_new):
        what = "the place for the demo holds other files; nothing was changed"
        raise UsageError(what, where=place, hint="name a new folder: fungi demo FOLDER")
    return place
