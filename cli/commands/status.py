"""`fungi status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any

import typer

import fungistore as fungi
from fungistore.errors import UsageError
from fungistore.quantities import counted, size

from ..flags import Json, command
from ..output import note, result, result_json, result_json_list
from ..tables import show_table, show_text

FINGERPRINT_SHOWN = 12
# Where an identity says how much of an item its encoder takes, and of what.
LONGEST = (("max_length", "token"), ("frames", "frame"), ("longest", "frame"))
SETUP_SHOWN = 8  # so that a table of the usual features fits 80 columns
LABELS_SHOWN = 8
FAILURES_AT_ONCE = 1000
COLUMNS = ("array", "rows", "units", "shape", "type", "size", "unusable", "setup")


@command
def status(
    *,
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="The store's directory.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print what every file of a store is; no STORE needed.")
    ] = False,
    failures: Annotated[
        bool, typer.Option("--failures", help="List every input, and mask, that could not be read.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what is in a store, what is missing, and its size.

    Also where each array came from.

    \b
    Examples:
      fungi status pets.fungi
      fungi status pets.fungi --json | jq '.feature_sets[].arrays[].rows_done'
      fungi status pets.fungi --failures
      fungi status --schema
    """
    if schema:
        described = fungi.schema()
        if as_json:
            result_json(described.to_json())
        else:
            for line in described.to_markdown().rstrip("\n").split("\n"):
                result(line)
        return
    if store is None:
        raise UsageError(
            "no store was named",
            expected="fungi status STORE",
            hint="fungi status --schema describes the files of any store",
        )
    if failures:
        failed = fungi.failed_inputs(store)
        if as_json:
            result_json_list({"store": store}, "failures", (one.to_json() for one in failed))
        else:
            _show_failures(store, failed)
        return
    found = fungi.status(store)
    result_json(found.to_json()) if as_json else _show(found)


def _show_failures(store: str, failed: Iterator[fungi.FailedInput]) -> None:
    """Show a table of so many rows at a time: there may be millions."""
    some = list(islice(failed, FAILURES_AT_ONCE))
    if not some:
        show_text("no failed inputs")
        return
    while some:
        rows = [
            (one.feature_set, str(one.row), one.id, one.path, f"{one.error}: {one.message}")
            for one in some
        ]
        words = ("feature set", "id", "path", "reason")
        show_table(("feature set", "row", *words[1:]), rows, left=words, folded=words[1:])
        some = list(islice(failed, FAILURES_AT_ONCE))
    note(
        f"to try them again: the fungi extract that made {store}, with --retry-failed; "
        "masks: fungi annotate"
    )


def _show(found: fungi.StoreStatus) -> None:
    labels = ", ".join(found.labels[:LABELS_SHOWN])
    labels += ", ..." if len(found.labels) > LABELS_SHOWN else ""
    splits = ", ".join(f"{name or 'none'} {count}" for name, count in found.splits.items())
    show_text(f"{found.store}  (schema {found.schema}, id {found.id[:FINGERPRINT_SHOWN]})")
    show_text(f"holds    {found.understood}")
    show_text(f"samples  {found.samples} from {', '.join(found.roots)}")
    show_text(f"splits   {splits}")
    show_text(f"labels   {len(found.labels)}" + (f" ({labels})" if found.labels else ""))
    if found.removed:
        gone = counted(found.removed, "sample")
        show_text(f"gone     {gone} whose file is gone from the source: left out by default")
    if found.columns:
        show_text(f"columns  {', '.join(found.columns)}")
    show_text(f"failed   {found.failed}")
    for message, count in found.failures.items():
        show_text(f"         {count} x {message}")
    if masks := found.masks:
        void = "no void" if masks.void is None else f"void {masks.void}"
        skipped = ", ".join(f"{count} {reason}" for reason, count in masks.skipped.items())
        show_text(
            f"masks    {masks.count} of {found.samples}, {counted(len(masks.classes), 'class')}, "
            f"{void}" + (f"; skipped: {skipped} (--failures lists them)" if skipped else "")
        )
    for feature_set in found.feature_sets:
        backbone = feature_set.backbone
        weights = str(backbone.get("weights", "?"))[:FINGERPRINT_SHOWN]
        show_text()
        adapter = f", {_adapter(backbone['adapter'])}" if "adapter" in backbone else ""
        show_text(
            f"{feature_set.name}: {backbone.get('model', '?')} {_inputs(backbone)}, "
            f"weights {weights}{adapter}"
        )
        if transform := backbone.get("transform"):
            show_text("transform  " + ", ".join(f"{k} {v}" for k, v in sorted(transform.items())))
        rows = [
            (
                array.name,
                f"{array.rows_done}/{found.samples}",
                f"{array.units_done}/{array.units_total}",
                "x".join(map(str, array.shape[1:])) or "1",
                array.dtype,
                size(array.bytes),
                str(array.unusable_rows),
                array.fingerprint[:SETUP_SHOWN],
            )
            for array in feature_set.arrays
        ]
        show_table(COLUMNS, rows, left=("array", "type", "setup"))
    for stale in found.stale:
        said = [f"rows of {', '.join(stale.arrays)} were made anew since"] if stale.arrays else []
        said += [f"rows of {', '.join(stale.gone)} are not there now"] if stale.gone else []
        show_text(
            f"stale    {stale.where}: {'; '.join(said)}; fungi verify says what makes it again"
        )
    if not found.feature_sets:
        show_text("no features yet")


def _adapter(adapter: Mapping[str, Any]) -> str:
    """Return how an encoder was adapted, in words."""
    settings = "".join(f" {name} {value}" for name, value in adapter["settings"].items())
    return f"adapted by {adapter['method']}{settings}, {adapter['digest'][:FINGERPRINT_SHOWN]}"


def _inputs(backbone: Mapping[str, Any]) -> str:
    """Return how an encoder sees its inputs, in words."""
    if "image_size" in backbone:
        return f"at {backbone['image_size']} px"
    shown = {**backbone, **backbone.get("log_mel", {})}
    longest = (f", at most {counted(shown[key], noun)}" for key, noun in LONGEST if key in shown)
    return f"with {backbone.get('pooling', 'unknown')} pooling{''.join(longest)}"
