"""What the driver uses of Ray, over threads of this process: nodes join, die, and are full at once.

It stands for Ray, which is not ours; the driver and its workers are real.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

PARALLEL = 4  # calls of one worker at once: a slice, and what is asked meanwhile


class RayError(Exception):
    """As Ray's."""


class ActorDiedError(RayError):
    """As Ray's."""


@dataclass(eq=False)
class Method:
    """A method of a worker, as `handle.name.remote()` calls it."""

    worker: Worker
    name: str

    def remote(self, *arguments: Any) -> Future[Any]:
        return self.worker.call(self.name, arguments)


@dataclass(eq=False)
class Worker:
    """A worker, on a node as soon as one has room."""

    cluster: Cluster
    actor: Any
    node: str | None = None
    is_dead: bool = False
    calls: list[tuple[str, tuple[Any, ...], Future[Any]]] = field(default_factory=list)
    going: list[Future[Any]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)

    def call(self, name: str, arguments: tuple[Any, ...]) -> Future[Any]:
        future: Future[Any] = Future()
        with self.cluster.lock:
            if self.is_dead:
                future.set_exception(ActorDiedError("it is dead"))
            else:
                self.calls.append((name, arguments, future))
                self.cluster.settle()
        return future

    def begin(self) -> None:
        for name, arguments, future in self.calls:
            self.going.append(future)
            threading.Thread(target=self._do, args=(name, arguments, future), daemon=True).start()
        self.calls.clear()

    def _do(self, name: str, arguments: tuple[Any, ...], future: Future[Any]) -> None:
        if name == "kind":
            value: Any = {"node": self.node, "kind": self.cluster.kind}
        else:
            try:
                value = getattr(self.actor, name)(*arguments)
            except Death as death:
                self.cluster.kill(self, str(death))
                return
        with self.cluster.lock:
            if not future.done():
                future.set_result(value)

    def die(self, cause: str) -> None:
        self.is_dead = True
        for future in [*self.going, *(future for *_, future in self.calls)]:
            if not future.done():
                future.set_exception(ActorDiedError(cause))
        self.calls.clear()


class Death(BaseException):
    """Raised by an actor that dies."""


class Cluster:
    """Stands for the module `ray`, connected.

    Args:
        actor: makes a worker's actor, given the cluster and the class that the driver names.
        nodes: names of the nodes, each with room for one worker.
    """

    def __init__(self, actor: Callable[[], Any], *nodes: str) -> None:
        from fungistore.engines.actor import machine_kind

        self.lock = threading.RLock()
        self.kind = machine_kind()
        self.names = list(nodes)
        self.full: set[str] = set()
        self.workers: list[Worker] = []
        self.started = 0
        self._actor = actor
        self.exceptions = SimpleNamespace(RayError=RayError)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "Alive": True, "NodeManagerHostname": name, "Resources": {"CPU": 1.0}}
            for name in self.names
        ]

    def method(self, **_: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return lambda method: method

    def remote(self, **_: object) -> Callable[[type], Any]:
        return lambda _: self

    def options(self, **_: object) -> Any:
        return SimpleNamespace(remote=self._start)

    def _start(self) -> Worker:
        with self.lock:
            worker = Worker(self, self._actor())
            self.workers.append(worker)
            self.started += 1
            self.settle()
        return worker

    def settle(self) -> None:
        """Put workers where there is room, and let them do what they are asked."""
        for worker in self.workers:
            taken = {one.node for one in self.workers if not one.is_dead} | self.full
            if not worker.is_dead and worker.node is None:
                worker.node = next((name for name in self.names if name not in taken), None)
            if worker.node is not None:
                worker.begin()

    def wait(
        self, futures: list[Future[Any]], num_returns: int, timeout: float
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        threading.Event().wait(min(timeout, 0.01))
        ready = [future for future in futures if future.done()][:num_returns]
        return ready, [future for future in futures if future not in ready]

    def get(self, future: Future[Any]) -> Any:
        return future.result()

    def kill(self, worker: Worker, cause: str = "killed", *, no_restart: bool = True) -> None:
        with self.lock:
            worker.die(cause)
            self.settle()

    def lose(self, name: str) -> None:
        """Let a node die."""
        with self.lock:
            self.names.remove(name)
            for worker in self.workers:
                if worker.node == name and not worker.is_dead:
                    worker.die("the node died")

    def join(self, name: str) -> None:
        """Let a node join."""
        with self.lock:
            self.names.append(name)
            self.settle()
