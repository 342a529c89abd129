"""The engine of a stage that ends in one result, as the flags say it."""

from __future__ import annotations

import fungistore as fungi
from fungistore.machine.context import Context


def chosen_engine(
    choice: fungi.EngineChoice, context: Context, device: str = "auto"
) -> fungi.Engine:
    """Return the engine that flags ask for.

    A scheduler's variables divide nothing: nobody would put the parts of its processes together.
    """
    return fungi.choose_engine(fungi.Asked(choice, device, {}, context.reporter))
