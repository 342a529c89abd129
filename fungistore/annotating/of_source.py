"""The masks of a source, at the end of its listing by `fungi extract`."""

from __future__ import annotations

import os

from fungistore.annotating.matching import Matching, mask_column
from fungistore.annotating.options import AnnotateOptions
from fungistore.annotating.result import AnnotateResult
from fungistore.annotating.rules import LOOKED_AT
from fungistore.annotating.stage import THING, take_masks
from fungistore.errors import FungiError, UsageError
from fungistore.location import locate
from fungistore.machine.context import Context
from fungistore.modalities.modality import IMAGE
from fungistore.sources.sample import Source, mask_words_of
from fungistore.store.masks import read_masks_record
from fungistore.store.store import Store


def take_source_masks(
    store: Store, source: Source, on_error: str, context: Context
) -> AnnotateResult | None:
    """Copy the masks of a source's samples into the store, those that are new or have changed.

    Where none can be used, that is said, and features are made all the same.

    Args:
        store: the store, which lists the source.
        source: that may say what the masks' values mean.
        on_error: "fail" refuses masks that cannot be used.
        context: its reporter is told what happens; another writer is waited for.

    Returns:
        What was done; None where nothing names masks.
    """
    store = Store.open(store.backend)
    if store.modality.name != IMAGE:
        return None
    column, record = mask_column(store), read_masks_record(store.folder())
    if record is None and (column is None or not _names_files(store, column, context)):
        return None
    options = AnnotateOptions(on_error="fail" if on_error == "fail" else "skip")
    try:
        with store.writing(THING, patience=context) as target:
            done = take_masks(target, options, context, words=mask_words_of(source))
    except FungiError as error:
        if on_error == "fail" or type(error) not in (FungiError, UsageError):
            raise
        context.reporter.notice(f"warning: the masks were not taken over: {error.what}")
        for word, value in error.details().items():
            context.reporter.notice(f"  {word}: {value}")
        return None
    context.reporter.notice(f"masks: {done}")
    for line in done.failures:
        context.reporter.notice(f"  {line}")
    return done


def _names_files(store: Store, column: str, context: Context) -> bool:
    """Whether the cells of a column name files, which is said where they do not."""
    some = Matching(store, ()).some(LOOKED_AT)
    if not some or any(os.path.exists(locate(one.root, one.uri).path) for one in some):
        return bool(some)
    context.reporter.notice(
        f"the column {column!r} names no files, such as {some[0].uri!r}: its cells are kept as "
        "text, and are no masks"
    )
    return False
