"""`fungi status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fungistore.errors import UsageError

from .console import explains_errors, printable, result, result_json, size, table_console

if TYPE_CHECKING:
    from fungistore.store.status import FeatureSetStatus, StoreStatus

FINGERPRINT_SHOWN = 12
LABELS_SHOWN = 8
COLUMNS: dict[str, Literal["left", "right"]] = {
    "array": "left",
    "rows": "right",
    "units": "right",
    "row shape": "right",
    "type": "left",
    "size": "right",
    "unusable rows": "right",
    "setup": "left",
}


@explains_errors
def status(
    store: Annotated[Path | None, typer.Argument(help="The store's directory.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print what every file of a store is; no STORE needed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is in a store, what is missing, its size, and where each array came from.

    \b
    Examples:
      fungi status pets.fungi
      fungi status pets.fungi --json | jq '.feature_sets[].arrays[] | {name, rows_done}'
      fungi status --schema
    """
    if schema:
        from fungistore.store.schema import schema as describe

        described = describe()
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
    from fungistore.store.status import status as read

    found = read(store)
    result_json(found.to_json()) if as_json else _show(found)


def _show(found: StoreStatus) -> None:
    from rich.table import Table

    console = table_console()
    labels = ", ".join(found.labels[:LABELS_SHOWN])
    labels += ", ..." if len(found.labels) > LABELS_SHOWN else ""
    splits = ", ".join(f"{name or 'none'} {count}" for name, count in found.splits.items())
    lines = [
        f"{found.store}  (schema {found.schema}, id {found.id[:FINGERPRINT_SHOWN]})",
        f"samples  {found.samples} from {', '.join(found.roots)}",
        f"splits   {splits}",
        f"labels   {len(found.labels)}" + (f" ({labels})" if found.labels else ""),
        f"failed   {found.failed}",
    ]
    lines += [f"         {count} x {message}" for message, count in found.failures.items()]
    console.print("\n".join(map(printable, lines)), soft_wrap=True)
    for feature_set in found.feature_sets:
        console.print()
        console.print(printable(f"{feature_set.name}: {_describe(feature_set)}"), soft_wrap=True)
        table = Table(box=None, pad_edge=False)
        for name, justify in COLUMNS.items():
            table.add_column(name, justify=justify, no_wrap=True)
        for array in feature_set.arrays:
            table.add_row(
                printable(array.name),
                f"{array.rows_done}/{found.samples}",
                f"{array.units_done}/{array.units_total}",
                " x ".join(map(str, array.shape[1:])) or "1",
                array.dtype,
                size(array.bytes),
                str(array.unusable_rows),
                printable(array.fingerprint[:FINGERPRINT_SHOWN]),
            )
        console.print(table)
    if not found.feature_sets:
        console.print("no features yet")


def _describe(feature_set: FeatureSetStatus) -> str:
    backbone = feature_set.backbone
    weights = str(backbone.get("weights", "?"))[:FINGERPRINT_SHOWN]
    side = backbone.get("image_size", "?")
    return f"{backbone.get('model', '?')} at {side} px, weights {weights}"
