"""How work is divided among processes, as flags say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, MinLen

from fungistore.headings import WORK
from fungistore.settings import Count, Setting, Settings

Number = Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class EngineChoice(Settings):
    """Which engine: this process alone, workers on this machine, or one of several processes."""

    heading = WORK

    engine: Annotated[
        str | None,
        Setting(
            "local, processes, or a plug-in's.",
            default="what the other flags ask for",
            metavar="NAME",
        ),
    ] = None
    gpus: Annotated[
        Annotated[tuple[Number, ...], MinLen(1)] | None,
        Setting(
            "Run one worker on each of these CUDA devices, such as 0,1,2,3.",
            default="this process, on --device",
            metavar="LIST",
        ),
    ] = None
    processes: Annotated[
        Count | None,
        Setting("Run so many workers on this machine's --device.", default="this process alone"),
    ] = None
    worker_id: Annotated[
        Number | None,
        Setting(
            "This process's number, from 0, of several on one store.", default="from the scheduler"
        ),
    ] = None
    num_workers: Annotated[
        Count | None,
        Setting("How many processes divide the units.", default="from the scheduler"),
    ] = None

    def __post_init__(self) -> None:
        """Refuse two ways at once."""
        super().__post_init__()
        if self.gpus is not None and self.processes is not None:
            self.refuse("processes", "nothing beside --gpus", self.processes, "leave out one")
