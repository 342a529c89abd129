"""Which nodes a cluster has, asked beside the work: who asks a head that has died waits long."""

from __future__ import annotations

import threading
import time
from typing import Any

from fungistore.errors import FungiError
from fungistore.fingerprint import Config

LOOK_SECONDS = 2.0  # between two looks
# Ray ends a process, without a word for whoever reads its stdout, a minute after its head has died
HEAD_SECONDS = 45.0


class ClusterLostError(FungiError):
    """The head of the cluster has gone: nothing of it answers any more, not even to be ended."""


class Roster:
    """The nodes that are alive.

    Args:
        ray: the module, connected.
        patience: seconds that the head may be silent.

    Attributes:
        nodes: by their ids, as of the last look.
    """

    def __init__(self, ray: Any, patience: float = HEAD_SECONDS) -> None:
        self._ray = ray
        self._patience = patience
        self._ended = threading.Event()
        self.nodes: dict[str, Config] = {}
        self.look()
        threading.Thread(target=self._watch, name="ray-nodes", daemon=True).start()

    def look(self) -> None:
        """Look now."""
        self.nodes = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        self._answered = time.monotonic()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def refuse_silence(self) -> None:
        """Find the head alive.

        Raises:
            ClusterLostError: it has not answered for long.
        """
        silent = time.monotonic() - self._answered
        if silent > self._patience:
            raise ClusterLostError(
                "the head of the Ray cluster does not answer any more",
                expected=f"an answer within {self._patience:g} seconds",
                found=f"none for {silent:.0f} seconds",
                hint="start a cluster, then the same command again: what is committed is kept",
            )

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception:  # of a head that is silent: for how long is what counts
                continue
