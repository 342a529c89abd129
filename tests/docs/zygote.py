"""Runs commands in processes forked from one that has the libraries loaded, in a moment each.

`fungi`, `pip` and `python`, first on a page's PATH, are `SHIM`: it hands over its arguments,
folder, environment and streams, and ends as the command ends. Pipes, exit codes and standard input
are those of a shell. No parallel region is entered before a fork: threads are as they always are.

    python zygote.py SOCKET [NAME...]

NAMEs are models of timm: small ones stand in for them here, of the same kind and with the same
transform, and their random weights are put into the cache of the hub ($HF_HOME).
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fungistore

SHIM = """\
#!{python} -IS
import json, os, socket, sys
request = [sys.argv, os.getcwd(), dict(os.environ)]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    socket.send_fds(server, [b"!"], [0, 1, 2])
    server.sendall(json.dumps(request).encode())
    server.shutdown(socket.SHUT_WR)
    code = server.recv(8)
sys.exit(int(code or 1))
"""
LIBRARIES = (
    "faiss google_crc32c matplotlib.pyplot numcodecs numpy PIL.Image pyarrow.parquet pyarrow.csv "
    "pydantic rich.progress rich.table safetensors.torch scipy.special scipy.stats sklearn.cluster "
    "sklearn.linear_model sklearn.neighbors sklearn.decomposition timm.data torch torch.func "
    "torchvision.transforms zarr h5py fungi_cli.main"
)
SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2}


def write_shims(folder: Path, address: Path) -> None:
    """Write the commands that hand over to a server at an address."""
    folder.mkdir()
    for name in ("fungi", "pip", "python"):
        (folder / name).write_text(SHIM.format(python=sys.executable, socket=str(address)))
        (folder / name).chmod(0o755)


def stand_in(name: str) -> None:
    """Let a small model answer to the name of one of timm's, its weights in the hub's cache."""
    import timm
    import torch
    from safetensors.torch import save_file

    architecture = name.partition(".")[0]
    registry = importlib.import_module("timm.models._registry")
    made: Callable[..., Any] = registry._model_entrypoints[architecture]

    @functools.wraps(made)
    def smaller(pretrained: bool = False, **options: Any) -> Any:
        return made(pretrained, **SMALL | options)

    registry._model_entrypoints[architecture] = smaller
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    folder = hub_folder(name, Path(os.environ["HF_HOME"]))
    save_file(model.state_dict(), folder / "model.safetensors")


def hub_folder(name: str, home: Path) -> Path:
    """Make the folder in which the hub's cache has a model of timm's."""
    repository = home / "hub" / f"models--timm--{name}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    return snapshot


def serve(address: str) -> None:
    """Answer each connection in a process of its own, until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        assert threading.active_count() == 1, threading.enumerate()
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(connection)
                os._exit(0)
            connection.close()


def answer(connection: socket.socket) -> None:
    """Run what a shim asks for and send its exit code."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as sent:
        (words, folder, environment) = json.loads(sent.read())
    if (child := os.fork()) == 0:
        connection.close()
        command(streams, words, folder, environment)
    for stream in streams:
        os.close(stream)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(str(code if code >= 0 else 128 - code).encode())


def command(
    streams: Sequence[int], words: Sequence[str], folder: str, environment: Mapping[str, str]
) -> None:
    """Become the command: never returns."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(":") if path]
        try:
            run(Path(words[0]).name, list(words[1:]))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run(name: str, words: list[str]) -> None:
    """Run a command line in this process."""
    sys.argv = [name, *words]
    if name == "fungi":
        importlib.import_module("fungi_cli.main").main()
    elif name == "pip":
        runpy.run_module("pip", run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    own = pkgutil.walk_packages(fungistore.__path__, "fungistore.")
    for library in [*LIBRARIES.split(), *(module.name for module in own)]:
        importlib.import_module(library)
    for model in sys.argv[2:]:
        stand_in(model)
    os.fsync = lambda descriptor: None  # pages are not about what a power cut leaves
    gc.collect()
    gc.freeze()
    serve(sys.argv[1])
