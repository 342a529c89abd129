"""How this process joins a Ray cluster, or starts one, and keeps its own streams and signals."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from fungistore.engines.roster import ClusterLostError
from fungistore.errors import UsageError
from fungistore.extras import install_command
from fungistore.machine.context import never, stopped

LOCAL = "local"
CLIENT = "ray://"
JOIN_SECONDS = 120.0  # where Ray, imported before, has a patience of minutes
POLL_SECONDS = 0.1
CAUSE_SHOWN = 600
TRACEBACK = "Traceback (most recent call last):"
FOLDER, OWNER = "fungi-ray-", "owner"
YOUNG_SECONDS = 10.0  # of a folder that is not locked yet
STORE_BYTES = 100 * 2**20  # near the least that Ray takes; no feature travels through it
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
OWN_TOKEN = secrets.token_hex(32)  # one for all clusters of this process: Ray reads it once
OWN_WAYS = {  # of Ray, unless the user has decided them
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # warns otherwise that it is going to be
    # of 40 seconds each: a busy head may miss one, and 20 of them cannot be interrupted
    "RAY_NUM_REDIS_GET_RETRIES": "2",
}


def import_ray() -> ModuleType:
    """Import Ray, which tells nobody that it is used.

    Raises:
        UsageError: it is not installed.
    """
    for name, value in OWN_WAYS.items():
        os.environ.setdefault(name, value)
    try:
        return import_module("ray")
    except ImportError as error:
        raise _missing(error) from error


@contextmanager
def connected(
    address: str | None, stop: Callable[[], bool] = never, patience: float = JOIN_SECONDS
) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster.

    Args:
        address: as of `fungistore.Ray`.
        stop: asked while the cluster does not answer.
        patience: seconds that it may take.

    Raises:
        UsageError: ray is not installed, or there is no such cluster, or it does not answer.
        StoppedError: `stop` asked for it.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS") or LOCAL
    with _own_folder(where) as folder, _own_output():
        try:
            _join(ray, where, folder, stop, patience)
            yield ray
        except ClusterLostError:
            raise  # a farewell would not be answered either
        except BaseException:
            ray.shutdown()
            raise
        ray.shutdown()


def _join(
    ray: Any, where: str, folder: str | None, stop: Callable[[], bool], patience: float
) -> None:
    options: dict[str, Any] = {"address": where, "log_to_driver": False}
    options["logging_level"] = logging.CRITICAL
    if folder is not None:
        options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        options["_temp_dir"] = folder
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        if folder is not None:  # the cluster ends with the thread that starts it
            ray.init(**options)
        else:
            _in_time(lambda: ray.init(**options), ray.shutdown, stop, patience)
    except ImportError as error:  # grpc, of a client
        raise _missing(error, "ray-client") from error
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise UsageError(
            "this process cannot join the Ray cluster",
            where=f"--address {where}",
            expected="a cluster with the same versions of Python and Ray",
            found=_chain(error),
            hint=_how_to_join(),
        ) from error
    finally:
        if in_main and before is not None:
            signal.signal(signal.SIGTERM, before)  # Ray's ends the process at once


def _how_to_join() -> str:
    own = "leave out --address for a cluster of this run alone"
    if os.environ.get(MODE):
        return f"see that the token is the cluster's (RAY_AUTH_TOKEN, or ~/.ray/auth_token); {own}"
    return (
        f"a cluster that asks for a token: {MODE}=token; on this machine: ray start --head; {own}"
    )


def _chain(error: BaseException | None) -> str:
    """Return what an error says, and what it came from: Ray's says where, its cause says why."""
    said = list[str]()
    while error is not None:
        text, _, trace = str(error).partition(TRACEBACK)  # which Ray puts into its texts
        words = [*text.split(), *" ".join(trace.strip().splitlines()[-1:]).split()]
        said.append(" ".join(words) or type(error).__name__)
        error = error.__cause__
    return "; ".join(said)[:CAUSE_SHOWN]


def _in_time(
    join: Callable[[], object],
    leave: Callable[[], object],
    stop: Callable[[], bool],
    patience: float,
) -> None:
    """Join in a thread of its own, which is left alone if nothing answers it."""
    ended, given_up = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            join()
        except BaseException as error:
            errors.append(error)
        ended.set()
        if given_up.is_set() and not errors:
            leave()

    threading.Thread(target=run, name="join-ray", daemon=True).start()
    deadline = time.monotonic() + patience
    try:
        while not ended.wait(POLL_SECONDS):
            if stop():
                raise stopped()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer in {patience:g} seconds")
    except BaseException:
        given_up.set()
        raise
    if errors:
        raise errors[0]


@contextmanager
def _own_folder(where: str) -> Iterator[str | None]:
    """Yield a folder for what Ray writes, where the cluster is ours; it goes with the cluster.

    Without a token of its own, Ray would make one in the home, and each later cluster ask for it.
    """
    if where != LOCAL:
        yield None
        return
    is_own = os.environ.setdefault(TOKEN, OWN_TOKEN) == OWN_TOKEN
    above = Path(tempfile.gettempdir())
    _sweep(above)
    folder = tempfile.mkdtemp(prefix=FOLDER, dir=above)  # sockets are in it: their paths are short
    with (Path(folder) / OWNER).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if is_own:
                os.environ.pop(TOKEN, None)


def _sweep(above: Path) -> None:
    """Remove the folders of runs that were killed; whoever lives holds a lock in its own."""
    for path in above.glob(f"{FOLDER}*/{OWNER}"):
        with suppress(OSError), path.open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(owner.fileno()).st_mtime > YOUNG_SECONDS:
                shutil.rmtree(path.parent, ignore_errors=True)


@contextmanager
def _own_output() -> Iterator[None]:
    """Keep Ray from printing what happens to nodes on stdout, where results are."""
    worker = sys.modules.get("ray._private.worker")
    before = getattr(worker, "_worker_logs_enabled", None)
    if before is None:
        yield
        return
    vars(worker)["_worker_logs_enabled"] = False
    try:
        yield
    finally:
        with suppress(KeyError):
            vars(worker)["_worker_logs_enabled"] = before


def _missing(error: ImportError, extra: str = "ray") -> UsageError:
    package = "ray[client]" if extra == "ray-client" else "ray"
    return UsageError(
        f"{package} is not installed",
        where="--engine ray",
        expected=f"fungistore[{extra}]",
        found=str(error),
        hint=install_command(extra, package),
    )
