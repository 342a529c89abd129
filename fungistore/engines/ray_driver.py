"""The driver of one run on a Ray cluster: it starts workers, gives them slices, and watches."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fungistore.engines.actor import THREADS, machine_kind, remote_actor
from fungistore.engines.engine import DividedWork, Place
from fungistore.engines.joint_progress import JointProgress
from fungistore.engines.placing import PATIENCE_SECONDS, Placing, slices_for
from fungistore.engines.processes import raise_worst
from fungistore.engines.roster import LOOK_SECONDS, ClusterLostError, Roster
from fungistore.engines.share import Share
from fungistore.engines.sight import Sight
from fungistore.errors import FungiError, error_from_json
from fungistore.fingerprint import Config
from fungistore.machine.context import Context, stopped
from fungistore.quantities import counted
from fungistore.store.locks import BusyError

POLL_SECONDS = 0.2
NEWS_SECONDS = (0.5, 5.0)  # least and most between two answers of a worker
WORKERS_A_NEWS_SECOND = 200  # more of them answer less often
ROOM_SECONDS = 20.0  # until it is told that nodes are there, and have no room
STILLBORN = 8  # workers in a row that die before they are ready
CAUSE_SHOWN = 400

State = Literal["starting", "opening", "free", "running", "parked"]


@dataclass(eq=False)
class _Hand:
    """A worker, as the driver sees it."""

    handle: Any
    state: State = "starting"
    node: str = ""  # its id
    name: str = "a new node"
    index: int = -1  # of the slice that it runs
    since: float = field(default_factory=time.monotonic)
    error: FungiError | None = None  # why it is parked

    @property
    def who(self) -> str:
        return f"worker on {self.name}"


class Driver:
    """One run.

    Args:
        ray: the module, connected.
        work: what is run.
        sight: what the driver sees of it.
        share: what each worker is given.
        actors: how many workers; default: as many as fit.
        context: its reporter is told, its stop asked.
    """

    def __init__(
        self,
        ray: Any,
        work: DividedWork,
        sight: Sight,
        share: Share,
        actors: int | None,
        context: Context,
    ) -> None:
        self._ray = ray
        self._work = work
        self._sight = sight
        self._share = share
        self._actors = actors
        self._context = context
        self._kind = machine_kind()
        self._processors: dict[tuple[str, ...], str] = {}  # each with the node it was seen on
        self._names: dict[str, str] = {}  # of nodes, by their ids
        self._roster = Roster(ray)
        self._nodes = self._roster.nodes  # those that are alive
        self._hands: list[_Hand] = []
        self._pending: dict[Any, tuple[_Hand, str]] = {}  # what is being waited for
        self._stillborn = 0
        self._busy_since: float | None = None
        self._is_waiting_told = self._is_room_told = False
        self._class = remote_actor(ray)
        self._look()
        count = slices_for(actors or self._room(), work.units)
        self._placing = Placing(count, time.monotonic())
        self._progress = JointProgress(context.reporter, count)

    def run(self) -> list[Config]:
        """Run all slices; as `fungistore.Ray.run`."""
        looked = time.monotonic()
        is_stopping = False
        self._start()
        while self._placing.left or self._running():
            if not is_stopping and self._context.stop():
                is_stopping = self._placing.is_ending = True
                self._stop()
            self._roster.refuse_silence()
            now = time.monotonic()
            if now - looked > LOOK_SECONDS:
                looked = now
                self._look()
                self._start()
            self._give(now)
            self._take_in()
            self._progress.show()
        self._progress.end()
        if is_stopping:
            raise stopped()
        raise_worst(list(self._placing.errors.values()), self._context.reporter)
        return [result for _, result in sorted(self._placing.results.items())]

    def end(self, error: BaseException | None = None) -> None:
        """End all workers, unless the error is that nothing of the cluster answers."""
        self._roster.end()
        self._progress.end()
        if not isinstance(error, ClusterLostError):
            for hand in self._hands:
                self._kill(hand)

    def _running(self) -> bool:
        return any(hand.state == "running" for hand in self._hands)

    def _look(self) -> None:
        """See which nodes there are, and name new ones."""
        self._nodes = self._roster.nodes
        for key, node in self._nodes.items():
            name = node["NodeManagerHostname"]
            if key not in self._names:
                is_taken = name in self._names.values()
                self._names[key] = f"{name}/{key[:6]}" if is_taken else name
        gone = [h for h in self._hands if h.state == "parked" and h.node not in self._nodes]
        self._hands = [hand for hand in self._hands if hand not in gone]

    def _room(self) -> int:
        return sum(self._share.fits(node["Resources"]) for node in self._nodes.values())

    def _start(self) -> None:
        """Start workers: as many as are asked for, or fit, and slices wait for."""
        wanted = self._room() if self._actors is None else self._actors
        if self._actors is None:  # those that were meant for a node that has gone wait for ever
            for hand in [one for one in self._hands if one.state == "starting"][::-1]:
                if len(self._hands) > wanted:
                    self._retire(hand)
        idle = sum(hand.state in ("starting", "opening", "free") for hand in self._hands)
        for _ in range(min(wanted - len(self._hands), self._placing.left - idle)):
            handle = self._class.options(
                num_cpus=self._share.cpus,
                num_gpus=self._share.gpus,
                max_restarts=0,
                scheduling_strategy="SPREAD",
            ).remote()
            hand = _Hand(handle)
            self._hands.append(hand)
            self._await(hand, "kind", handle.kind.remote())
        self._refuse_if_all_are_left_out()
        late = time.monotonic() - ROOM_SECONDS
        is_crowded = all(one.state == "starting" and one.since < late for one in self._hands)
        if self._hands and self._nodes and is_crowded and not self._is_room_told:
            self._is_room_told = True
            self._context.reporter.notice(
                f"waiting for {self._share}; the nodes are in use by others, or start slowly"
            )
        if not self._room() and not self._is_waiting_told:
            self._is_waiting_told = True
            self._context.reporter.notice(
                f"waiting for a node with {self._share}; the cluster has none now"
            )

    def _give(self, now: float) -> None:
        for hand in self._hands:
            if hand.state == "free" and (part := self._placing.next(now, self._nodes)):
                hand.state, hand.index = "running", part.index
                self._await(hand, "run", hand.handle.run.remote(part.index, part.count))

    def _await(self, hand: _Hand, what: str, reference: Any) -> None:
        self._pending[reference] = (hand, what)

    def _ask_news(self, hand: _Hand) -> None:
        least, most = NEWS_SECONDS
        least = max(least, len(self._hands) / WORKERS_A_NEWS_SECOND)
        self._await(hand, "news", hand.handle.events.remote(least, max(least, most)))

    def _take_in(self) -> None:
        """Wait a moment for whatever comes first, and take in all that has come."""
        if not self._pending:
            time.sleep(POLL_SECONDS)
            return
        ready, rest = self._ray.wait(list(self._pending), num_returns=1, timeout=POLL_SECONDS)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        for reference in ready:
            hand, what = self._pending.pop(reference, (None, ""))
            if hand is None:  # its worker has died in the meantime
                continue
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                if hand in self._hands:
                    self._lost(hand, error)
                continue
            match what:
                case "kind":
                    self._placed(hand, answer)
                case "open":
                    self._opened(hand, answer)
                case "run":
                    self._ran(hand, answer)
                case "news":
                    self._heard(hand, answer)
                    self._ask_news(hand)

    def _placed(self, hand: _Hand, answer: Config) -> None:
        hand.node = answer["node"]
        if hand.node not in self._nodes:
            self._roster.look()
            self._look()
        hand.name = self._names.get(hand.node, hand.node[:6])
        self._compare_kind(hand, answer["kind"])
        node = self._nodes.get(hand.node, {"Resources": {}})
        neighbours = max(1, self._share.fits(node["Resources"]))
        place = Place(self._share.device, neighbours, hand.name)
        self._open(hand, place)
        self._ask_news(hand)

    def _open(self, hand: _Hand, place: Place) -> None:
        hand.state = "opening"
        given = (asdict(self._work), asdict(place), asdict(self._sight), sys.argv)
        self._await(hand, "open", hand.handle.open.remote(*given, os.environ.get(THREADS)))

    def _opened(self, hand: _Hand, document: Config | None) -> None:
        if document is None:
            self._stillborn, self._busy_since = 0, None
            hand.state = "free"
            return
        error = error_from_json(document["error"], document["exit_code"])
        hand.state, hand.error = "parked", error  # not ended: it keeps others from starting there
        if isinstance(error, BusyError):
            now = time.monotonic()
            self._busy_since = now if self._busy_since is None else self._busy_since
            if now - self._busy_since >= PATIENCE_SECONDS and not self._has_ready():
                raise error
            self._tell(hand, f"{error.what}; trying again")
            self._retire(hand)  # the next one may find it free
        elif error.exit_code != FungiError.exit_code:
            self._placing.errors.setdefault(-1, error)
            self._placing.is_ending = True
        else:
            self._tell(hand, f"left out: {error}")
            self._refuse_if_all_are_left_out()

    def _refuse_if_all_are_left_out(self) -> None:
        """Raise the error of a worker that cannot work, where there is no other one."""
        if self._hands and all(one.state == "parked" for one in self._hands):
            raise next(one.error for one in self._hands if one.error is not None)

    def _has_ready(self) -> bool:
        return any(one.state in ("free", "running") for one in self._hands)

    def _ran(self, hand: _Hand, document: Config) -> None:
        index, hand.state = hand.index, "free"
        self._heard(hand, document["news"], index)
        hand.index = -1
        self._stillborn = 0
        if "result" in document:
            self._placing.finished(index, document["result"])
            self._progress.finished(index)
            return
        error = error_from_json(document["error"], document["exit_code"])
        wait = self._placing.failed(index, error, time.monotonic())
        if wait:
            self._tell(hand, f"{error.what}; trying again")

    def _heard(self, hand: _Hand, news: Config, index: int | None = None) -> None:
        for text in news["notices"]:
            self._tell(hand, text)
        index = hand.index if index is None else index
        if news.get("index", -1) == index and index >= 0:
            self._placing.began(index, news["began"])
            self._progress.update(index, news["what"], news["total"], news["done"])

    def _lost(self, hand: _Hand, error: Exception) -> None:
        """Forget a worker that has died, or is as good as dead, and place its slice again."""
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:CAUSE_SHOWN]
        self._retire(hand)
        if hand.state == "running":
            self._placing.died(hand.index, hand.node, f"{hand.who}: {cause}", time.monotonic())
            if not self._placing.is_ending:
                self._context.reporter.notice(
                    f"{hand.who} has died ({type(error).__name__}); its units are placed again"
                )
            return
        self._tell(hand, f"it has died before it was ready: {cause}")
        if self._has_ready():
            return  # nodes come and go, and the work goes on
        self._stillborn += 1
        if self._stillborn >= STILLBORN:
            raise FungiError(
                f"no worker gets ready: {counted(STILLBORN, 'death')} in a row",
                where=hand.name,
                found=cause,
                hint="see that fungistore is installed on all nodes, and their memory; "
                "then the same command again",
            )

    def _retire(self, hand: _Hand) -> None:
        self._kill(hand)
        self._hands.remove(hand)
        for reference in [ref for ref, (one, _) in self._pending.items() if one is hand]:
            del self._pending[reference]

    def _kill(self, hand: _Hand) -> None:
        with suppress(Exception):  # of a cluster that is going down, too
            self._ray.kill(hand.handle, no_restart=True)

    def _stop(self) -> None:
        """Ask the workers that run to stop, and end the others."""
        for hand in list(self._hands):
            if hand.state == "running":
                hand.handle.stop.remote()
            else:
                self._retire(hand)

    def _tell(self, hand: _Hand, text: str) -> None:
        self._progress.notice(hand.who, text)

    def _compare_kind(self, hand: _Hand, kind: dict[str, str]) -> None:
        """Say where a node has other versions than this process, or is another kind of machine."""
        others = [
            f"{name} {kind.get(name)} (here {own})"
            for name, own in self._kind.items()
            if name not in ("machine", "processor", "GPU") and kind.get(name) != own
        ]
        if others:
            said = ", ".join(others)
            self._tell(hand, f"it has {said}: features may differ in their last digits")
        machine = tuple(kind.get(name, "") for name in ("machine", "processor", "GPU"))
        known = self._processors.setdefault(machine, hand.name)
        if known == hand.name and len(self._processors) > 1:
            other = next(iter(self._processors))
            self._tell(
                hand,
                f"another kind of machine ({', '.join(machine)}) than {self._processors[other]} "
                f"({', '.join(other)}): their features agree within tolerance, not bit for bit",
            )
