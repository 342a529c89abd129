"""`fungi doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import explains_errors, result, result_json

if TYPE_CHECKING:
    from fungistore.doctor.examine import Examination

UNFIT = 1


@explains_errors
def doctor(
    store: Annotated[
        Path | None, typer.Argument(help="A store to look at too; its disk is the one tested.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Measure this timm model's bare forward: the floor.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the model's input in pixels.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check this machine, and a store: versions, devices, limits, disk, weights; and how to fix.

    Takes seconds, opens no connection, and writes 64 MB to the disk, which it removes.

    \b
    Examples:
      fungi doctor
      fungi doctor pets.fungi --json | jq '.checks[] | select(.state != "pass")'
      fungi doctor --model vit_small_patch14_dinov2 --image-size 224

    \b
    Exit codes: 0 no check failed (warnings are no failures), 1 a check failed, 2 usage.
    """
    from fungistore.doctor.examine import examine

    found = examine(store, model=model, image_size=image_size, device=device)
    result_json(found.to_json()) if as_json else _show(found)
    if not found.is_fit:
        raise typer.Exit(UNFIT)


def _show(found: Examination) -> None:
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        result(f"{check.state.upper()}  {check.name.ljust(width)}  {check.found}")
        if check.fix:
            result(f"      {' ' * width}  try: {check.fix}")
    result(", ".join(f"{count} {state}" for state, count in found.counts.items()))
