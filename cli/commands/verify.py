"""`fungi verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.errors import UsageError
from fungistore.machine.context import Context
from fungistore.quantities import counted, duration, size

from ..console import next_step
from ..engines import chosen_engine
from ..flags import Json, StorePath, command
from ..output import note, result, result_json
from ..shell import operand
from ..tables import show_table

EXIT_CODES = {"sound": 0, "unreadable": 1}  # else that of StoreError
DAMAGED = 5
COLUMNS = ("severity", "kind", "where", "expected", "found", "--repair")


@command
def verify(
    *,
    store: StorePath,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Drop what is wrong, so that the next run makes it again."),
    ] = False,
    rebuild_records: Annotated[
        bool,
        typer.Option(
            "--rebuild-records",
            help="Write a record for each whole chunk that has lost its own, as in a copy without "
            "commits/: ids are taken from the sample table, the setup from the array.",
        ),
    ] = False,
    engine: fungi.EngineChoice,
    as_json: Json = False,
    context: Context,
) -> None:
    """Read a whole store again and compare it with its records.

    --repair drops what is wrong. Every unit is read and hashed; metadata, the sample table, setups,
    and what PCAs, indexes, heads and evaluations were made from are compared. What cannot be read,
    such as for want of permission, is said, and never dropped.

    \b
    Examples:
      fungi verify pets.fungi
      fungi verify pets.fungi --repair
      fungi verify pets.fungi --processes 2
      fungi verify copy-without-commits.fungi --rebuild-records
      fungi verify pets.fungi --json | jq '.findings[] | {kind, where, repair}'

    Exit codes: 0 sound (warnings are no damage) or all repaired, 1 failed, or something cannot be
    read, 2 usage, 5 damage was found or is left after --repair, or another schema, 75 stopped by
    SIGTERM, 130 ^C.
    """
    if repair and rebuild_records:
        raise UsageError(
            "--repair drops what --rebuild-records could save",
            hint="--rebuild-records first; then fungi verify shows what is left",
        )
    workers = chosen_engine(engine, context)
    mended, rebuilt = None, None
    if rebuild_records:
        rebuilt = fungi.rebuild_records(store, context=context)
        found, document = rebuilt.verification, rebuilt.to_json()
    elif repair:
        mended = fungi.repair_store(store, engine=workers, context=context)
        found, document = mended.verification, mended.to_json()
    else:
        found = fungi.verify_store(store, engine=workers, context=context)
        document = found.to_json()
    if as_json:
        result_json(document)
    else:
        if mended is not None and mended.repaired:
            result(f"repaired: {len(mended.repaired)}")
            _table(mended.repaired)
        if rebuilt is not None:
            result(f"records rebuilt: {sum(rebuilt.rebuilt.values())}")
            for where, why in rebuilt.left:
                result(f"not rebuilt: {where}: {why}")
        _show(found)
    for line in found.notes:
        note(f"note: {line}")
    for command_line in mended.commands if mended is not None else ():
        note(f"to make again what was dropped: {command_line}")
    if any(finding.kind == "records-missing" for finding in found.errors) and rebuilt is None:
        next_step("fungi", "verify", operand(store), "--rebuild-records")
    elif not repair and any(finding.remedy for finding in found.findings):
        next_step("fungi", "verify", operand(store), "--repair")
    else:
        next_step("fungi", "status", operand(store))
    if code := EXIT_CODES.get(found.verdict, DAMAGED):
        raise typer.Exit(code)


def _show(found: fungi.Verification) -> None:
    errors = len(found.errors)
    warnings = len(found.findings) - errors
    if found.findings:
        _table(found.findings)
    rows = sum(array.rows for array in found.arrays)
    unusable = sum(array.nan_rows + array.inf_rows for array in found.arrays)
    failed = sum(array.failed for array in found.arrays)
    zero = sum(array.zero_rows for array in found.arrays)
    unread = counted(errors, "file or folder", "files or folders")
    verdict = {
        "sound": "sound",
        "damaged": f"DAMAGED: {counted(errors, 'error')}",
        "unreadable": f"NOT READ: {unread}, of which nothing is known",
        "other schema": "of another schema, not read",
    }[found.verdict]
    result(
        f"{found.store}: {verdict}, {counted(warnings, 'warning')}; "
        f"{counted(found.units, 'unit')} and "
        f"{size(found.bytes)} read in {duration(found.seconds)}; {counted(rows, 'sound row')} in "
        f"{counted(len(found.arrays), 'array')}, {failed} of failed inputs, {unusable} with NaN or "
        f"infinities, {zero} of zeros; {counted(len(found.uncommitted), 'chunk')} not committed yet"
    )


def _table(findings: Sequence[fungi.Finding]) -> None:
    rows = [
        (one.severity, one.kind, one.where, one.expected, one.found, one.repair) for one in findings
    ]
    show_table(COLUMNS, rows, left=COLUMNS, folded=COLUMNS)
