"""`fungi doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

import fungistore as fungi

from ..flags import Json, command
from ..output import result, result_json
from ..starting import announced_imports

UNFIT = 1


@command
def doctor(
    *,
    store: Annotated[
        str | None,
        typer.Argument(metavar="STORE", help="A store to look at too; its disk is tested."),
    ] = None,
    options: fungi.DoctorOptions,
    as_json: Json = False,
) -> None:
    """Check this machine, and a store, and say how to fix them.

    Versions, devices, limits, disk and weights. Takes seconds, opens no connection, and writes 64
    MB to the disk, which it removes.

    \b
    Examples:
      fungi doctor
      fungi doctor pets.fungi --json | jq '.checks[] | select(.state != "pass")'
      fungi doctor --model vit_small_patch14_dinov2 --image-size 224

    Exit codes: 0 no check failed (warnings are no failures), 1 a check failed, 2 usage.
    """
    with announced_imports():
        found = fungi.examine(store, options)
    result_json(found.to_json()) if as_json else _show(found)
    if not found.is_fit:
        raise typer.Exit(UNFIT)


def _show(found: fungi.Examination) -> None:
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        result(f"{check.state.upper()}  {check.name.ljust(width)}  {check.found}")
        if check.fix:
            result(f"      {' ' * width}  try: {check.fix}")
    result(", ".join(f"{count} {state}" for state, count in found.counts.items()))
