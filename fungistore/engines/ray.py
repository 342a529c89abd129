"""Workers on the nodes of a Ray cluster: slices go to whoever is free, and again to others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fungistore.engines.engine import DividedWork
from fungistore.engines.share import Share
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.machine.context import Context


@dataclass(frozen=True)
class Ray:
    """The engine that starts workers on a Ray cluster; none of the features travel through Ray.

    Each worker opens the work once, reads the source and writes the store itself. A slice goes to
    the next worker that is free; that of a worker that has died, to another one. Workers are
    started on nodes that join.

    Attributes:
        address: "auto", a cluster on this machine; "local", one that is started for this run;
            "HOST:PORT" or "ray://HOST:PORT". Default: what the variable RAY_ADDRESS names, or
            "local". In a process that is connected already, that cluster.
        actors: how many workers; a cluster that can grow is asked to. Default: as many as fit on
            the nodes there are.
        cpus_per_actor: cores for each; default: those of the smallest node, or 1 beside a GPU.
        gpus_per_actor: GPUs for each, or a part of one; default: 1 where any node has them.
    """

    address: str | None = None
    actors: int | None = None
    cpus_per_actor: int | None = None
    gpus_per_actor: float | None = None

    def run(self, work: DividedWork, context: Context) -> list[Config]:
        """Run all slices on the cluster, and return what each gave.

        Raises:
            UsageError: ray is not installed, there is no such cluster, or no node has room.
            StoppedError: `context` asked for it.
            ClusterLostError: its head has gone.
            FungiError: the worst of the workers' errors, or that of units whose workers all die;
                the others went on to their ends.
        """
        from fungistore.engines.ray_connection import connected
        from fungistore.engines.ray_driver import Driver
        from fungistore.engines.sight import look

        sight = look(work)
        with connected(self.address, context.stop) as ray:
            share = self.share([node["Resources"] for node in ray.nodes() if node["Alive"]])
            driver = Driver(ray, work, sight, share, self.actors, context)
            with _ended(driver):
                return driver.run()

    def share(self, nodes: list[Config]) -> Share:
        """Return what each worker is given.

        Args:
            nodes: the resources of each.

        Raises:
            UsageError: no node has as much, and no number of workers is asked for.
        """
        gpus, device = self.gpus_per_actor, None
        if gpus is None:
            gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
            device = None if gpus else "cpu"
        cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        cpus = self.cpus_per_actor or (1 if gpus else min(cores, default=1))
        share = Share(cpus, gpus, "cuda:0" if gpus else device)
        if self.actors is None and not any(map(share.fits, nodes)):
            has = (f"{n.get('CPU', 0):g} cores and {n.get('GPU', 0):g} GPUs" for n in nodes)
            raise UsageError(
                "no node of the Ray cluster has room for a worker",
                where="--cpus-per-actor" if self.cpus_per_actor else "--gpus-per-actor",
                expected=str(share),
                found="; ".join(has) or "no nodes",
                hint="ask for less, add nodes, or give --actors N, for which a cluster that can "
                "grow does",
            )
        return share


@contextmanager
def _ended(driver: Any) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        driver.end(error)
        raise
    driver.end()
