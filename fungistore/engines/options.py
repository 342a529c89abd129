"""How work is divided among processes, as flags say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, MinLen

from fungistore.headings import WORK
from fungistore.settings import Count, Positive, Setting, Settings

Number = Annotated[int, Ge(0)]
ELSEWHERE = ("local", "processes")  # our engines that use no cluster
OF_ONE_MACHINE = ("gpus", "processes", "worker_id", "num_workers")


@dataclass(frozen=True, kw_only=True)
class EngineChoice(Settings):
    """Which engine: this process alone, workers on this machine, or one of several processes."""

    heading = WORK

    engine: Annotated[
        str | None,
        Setting(
            "local, processes, ray, or a plug-in's.",
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

    # not --workers, which are the threads that decode in each of them
    actors: Annotated[
        Count | None,
        Setting(
            "Run so many workers on a Ray cluster; it may grow for them.",
            default="as many as fit",
        ),
    ] = None
    address: Annotated[
        str | None,
        Setting(
            "The Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT.",
            default="RAY_ADDRESS, or local: one for this run",
            metavar="WHERE",
        ),
    ] = None
    cpus_per_actor: Annotated[
        Count | None,
        Setting(
            "Cores that each worker on Ray is given.",
            default="the smallest node's, or 1 beside a GPU",
        ),
    ] = None
    gpus_per_actor: Annotated[
        Positive | None,
        Setting(
            "GPUs that each worker on Ray is given; 0.5 puts two on one.",
            default="1 where there are any",
        ),
    ] = None

    @property
    def cluster_flags(self) -> dict[str, object]:
        """The given settings that only a cluster has use for, by field."""
        names = ("actors", "address", "cpus_per_actor", "gpus_per_actor")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def __post_init__(self) -> None:
        """Refuse two ways at once."""
        super().__post_init__()
        if self.cluster_flags or self.engine == "ray":
            for name in OF_ONE_MACHINE:
                if (value := getattr(self, name)) is not None:
                    self.refuse(name, "nothing beside a cluster", value, "leave out one")
        for name, value in self.cluster_flags.items():
            if self.engine in ELSEWHERE:
                self.refuse(name, f"nothing beside --engine {self.engine}", value, "--engine ray")
        if self.gpus_per_actor is not None and not (
            self.gpus_per_actor < 1 or self.gpus_per_actor.is_integer()
        ):
            self.refuse("gpus_per_actor", "a part of one, or whole ones", self.gpus_per_actor)
        if self.gpus is not None and self.processes is not None:
            self.refuse("processes", "nothing beside --gpus", self.processes, "leave out one")
