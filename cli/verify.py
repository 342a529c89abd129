"""`fungi verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fungistore.machine.context import Context

from .console import (
    ConsoleReporter,
    duration,
    explains_errors,
    next_step,
    note,
    printable,
    result,
    result_json,
    size,
    stop_on_signals,
    table_console,
)
from .evaluation import Json, StorePath

if TYPE_CHECKING:
    from fungistore.verification.findings import Finding, Verification

DAMAGED = 5  # the exit code of StoreError


@explains_errors
def verify(
    store: StorePath,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Drop what is wrong, so that the next run makes it again."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Read a whole store again and compare it with its records; --repair drops what is wrong.

    Every unit is read and hashed; metadata, the sample table, setups, and what PCAs, indexes,
    heads and evaluations were made from are compared.

    \b
    Examples:
      fungi verify pets.fungi
      fungi verify pets.fungi --repair
      fungi verify pets.fungi --json | jq '.findings[] | {kind, where, repair}'

    \b
    Exit codes: 0 sound (warnings are no damage) or all repaired, 1 failed, 2 usage, 5 damage was
    found or is left after --repair, 75 stopped by SIGTERM, 130 ^C.
    """
    with stop_on_signals() as stop:
        from fungistore.verification.repair import repair_store
        from fungistore.verification.verify import verify_store

        reporter = ConsoleReporter()
        if repair:
            mended = repair_store(store, context=Context(reporter, stop))
            found, document = mended.verification, mended.to_json()
        else:
            mended, found = None, verify_store(store, context=Context(reporter, stop))
            document = found.to_json()
    if as_json:
        result_json(document)
    else:
        if mended is not None and mended.repaired:
            result(f"repaired: {len(mended.repaired)}")
            _table(mended.repaired)
        _show(found)
    for line in found.notes:
        note(f"note: {line}")
    for command in mended.commands if mended is not None else ():
        note(f"to make again what was dropped: {command}")
    if not repair and any(finding.remedy for finding in found.findings):
        next_step("fungi", "verify", str(store), "--repair")
    else:
        next_step("fungi", "status", str(store))
    if not found.is_sound:
        raise typer.Exit(DAMAGED)


def _show(found: Verification) -> None:
    errors = len(found.errors)
    warnings = len(found.findings) - errors
    if found.findings:
        _table(found.findings)
    rows = sum(array.rows for array in found.arrays)
    unusable = sum(array.nan_rows + array.inf_rows for array in found.arrays)
    failed = sum(array.failed for array in found.arrays)
    zero = sum(array.zero_rows for array in found.arrays)
    verdict = "sound" if found.is_sound else f"DAMAGED: {errors} errors"
    result(
        f"{found.store}: {verdict}, {warnings} warnings; {found.units} units and "
        f"{size(found.bytes)} read in {duration(found.seconds)}; {rows} sound rows in "
        f"{len(found.arrays)} arrays, {failed} of failed inputs, {unusable} with NaN or "
        f"infinities, {zero} of zeros; {len(found.uncommitted)} chunks not committed yet"
    )


def _table(findings: Sequence[Finding]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("severity", "kind", "where", "expected", "found", "--repair"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        cells = (finding.where, finding.expected, finding.found, finding.repair)
        table.add_row(finding.severity, finding.kind, *map(printable, cells))
    table_console().print(table)
