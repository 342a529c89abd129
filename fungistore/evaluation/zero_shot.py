"""`fungi eval zero-shot`: images classified by the names of their classes (CLIP, section 3.1)."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fungistore.errors import UsageError
from fungistore.evaluation.intervals import metric_intervals
from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.options import ZeroShotOptions
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.result import (
    LABEL_HINT,
    Evaluation,
    Score,
    count_excluded,
    refuse_too_few,
)
from fungistore.extras import install_command
from fungistore.joint.space import TextSpace, open_space
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import Vectors, normalize
from fungistore.matrices.seen import refuse_seen
from fungistore.matrices.splits import named_split
from fungistore.store.removed import left_out
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.text import read_text

SETS = {"imagenet": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}
NAME = "{}"
NUMBERED = re.compile(r"^[0-9]+[._ -]+(?=\S)")  # as in 001.Black_footed_Albatross
NAMES_SHOWN = 5


def evaluate_zero_shot(
    store: str | Path,
    options: ZeroShotOptions = ZeroShotOptions(),
    *,
    context: Context = DEFAULT,
) -> Evaluation:
    """Classify the test rows by the texts of their classes; nothing is trained.

    A class's vector is the mean of the unit vectors of its sentences, of length 1; an image is of
    the class with the largest cosine. Memory is bounded: images are read block by block.

    Args:
        store: the store's directory.
        options: templates, class names and text side.
        context: its reporter is told what happens, its stop asked between blocks.

    Raises:
        UsageError: there are no embeddings of a joint encoder, no labels, no such split, or the
            templates or names cannot be used.
        MismatchError: the text side is of another model than the embeddings.
        FungiError: its weights could not be had.
    """
    ZeroShotOptions.accept(options)
    opened = Store.open(store, keep_removed=options.keep_removed)
    templates = read_templates(options.templates)
    labels = opened.samples.labels()
    labels[left_out(opened)] = -1  # of no class, so that classes without an image are none
    pool, where = _rows_of(opened, options.split)
    present = np.unique(labels[pool][labels[pool] >= 0])
    refuse_too_few("images are classified among classes", len(present), 2, LABEL_HINT)
    classes = np.unique(labels[labels >= 0])
    names = class_texts([opened.manifest.labels[one] for one in classes], options.class_names)
    space = open_space(opened, options.feature_set, options, context)
    matrix = space.matrix
    coverage = matrix.coverage()
    is_labelled, is_usable = labels >= 0, coverage.usable
    rows = pool[(is_labelled & is_usable)[pool]]
    refuse_too_few("no image has a label and an embedding", len(rows), 1, LABEL_HINT)
    refuse_seen(opened, matrix.arrays, rows)
    vectors = _class_vectors(space, names, templates, context)
    ranked: list[Predictions] = []
    context.reporter.begin("images", len(rows))
    for numbers, block in matrix.stream(rows):
        context.stop_if_asked()
        cosines = block @ vectors.T
        said = Predictions.of_probabilities(cosines, classes)
        # cosines of several classes are no probabilities, so no area is of them
        ranked.append(said if len(classes) == 2 else Predictions(said.ranked))
        context.reporter.advance(len(numbers))
    context.reporter.end()
    predictions = Predictions.joined(ranked)
    metrics = classification_metrics(labels[rows], predictions, len(classes))
    score = Score(
        features=matrix.features,
        dim=matrix.dim,
        n_train=0,
        n_test=len(rows),
        metrics=metrics,
        spread=metric_intervals(labels[rows], predictions, metrics),
        protocol={},
        fingerprints=matrix.fingerprints,
        contents=matrix.contents,
    )
    return Evaluation(
        kind="zero-shot",
        store=opened.where,
        feature_set=matrix.feature_set,
        protocol={
            "rows": where,
            "classes": names,
            "templates": list(templates),
            "texts": space.identity(),
            "ensemble": "mean of unit vectors, normalised",
        },
        excluded=count_excluded(pool, is_labelled, coverage),
        scores=(score,),
    )


def read_templates(asked: Sequence[str]) -> tuple[str, ...]:
    """Return sentences with one {} each, of what `--templates` was given.

    Raises:
        UsageError: one has no {}, or names a file that is not there, or a set of templates is
            asked for and open_clip, which has them, is not installed.
    """
    found: list[str] = []
    for one in asked:
        if one in SETS:
            found += _published(one)
        elif NAME in one:
            found.append(one)
        elif Path(one).is_file():
            lines = read_text(Path(one)).splitlines()
            found += read_templates([line for line in map(str.strip, lines) if line])
        else:
            raise UsageError(
                "a template has no place for the class name",
                where=f"--templates {one!r}",
                expected=f"a sentence with {NAME}, a file of such lines, or {' or '.join(SETS)}",
                hint=f"--templates 'a photo of a {NAME}.'",
            )
    if not found:
        raise UsageError("there are no templates", where=f"--templates {' '.join(asked)}")
    return tuple(dict.fromkeys(found))


def class_texts(labels: Sequence[str], file: Path | None) -> list[str]:
    """Return what to call each class in a sentence.

    Args:
        labels: the class names of the store.
        file: a table of label,name; None: the labels without a number in front, and with blanks
            for underscores.

    Raises:
        UsageError: the file cannot be read, or lacks a class.
    """
    if file is None:
        return [NUMBERED.sub("", label).replace("_", " ").strip() or label for label in labels]
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream, skipinitialspace=True) if len(row) >= 2]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            "the class names cannot be read", where=f"--class-names {file}", found=error
        ) from error
    names = {row[0].strip(): row[1].strip() for row in rows}
    missing = [label for label in labels if not names.get(label)]
    if missing:
        shown = ", ".join(missing[:NAMES_SHOWN]) + ", ..." * (len(missing) > NAMES_SHOWN)
        raise UsageError(
            "classes have no name in the table",
            where=f"--class-names {file}",
            expected="a line label,name for each class",
            found=f"none for {shown}",
        )
    return [names[label] for label in labels]


def _published(name: str) -> list[str]:
    try:
        import open_clip
    except ImportError as error:
        raise UsageError(
            "the templates come with open_clip, which is not installed",
            where=f"--templates {name}",
            hint=install_command("open-clip", "open_clip_torch"),
        ) from error
    return [sentence(NAME) for sentence in getattr(open_clip, SETS[name])]


def _rows_of(store: Store, split: str | None) -> tuple[Rows, str]:
    if split is not None:
        return named_split(store, split, "leave out --split"), split
    test = store.samples.splits().get("test")
    return (np.arange(len(store.samples)), "all") if test is None else (test, "test")


def _class_vectors(
    space: TextSpace, names: Sequence[str], templates: Sequence[str], context: Context
) -> Vectors:
    """Return the vector of each class [c, e], of length 1."""
    vectors = np.empty((len(names), space.matrix.dim), np.float32)
    context.reporter.begin("class texts", len(names))
    for place, name in enumerate(names):
        context.stop_if_asked()
        sentences = [template.replace(NAME, name) for template in templates]
        vectors[place] = space.vectors(sentences, context).mean(axis=0)
        context.reporter.advance(1)
    context.reporter.end()
    normalize(vectors)
    return vectors
