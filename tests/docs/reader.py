"""A reader at a shell: a folder of images, the commands of a page, and what they print."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from likeness import unlike
from pages import Block, commands
from zygote import hub_folder, write_shims

HERE = Path(__file__).parent
MODEL = "vit_small_patch14_dinov2.lvd142m"  # of all pages
PATIENCE = 300  # seconds for a command


@dataclass(frozen=True)
class Shell:
    """Where commands run as printed: with `fungi` and `python` on their PATH, and no model hub."""

    environment: Mapping[str, str]
    is_real: bool  # with the real model, whose numbers are compared

    def surroundings(self, folder: Path) -> dict[str, str]:
        """Return the variables of what runs in a folder: what is installed there stays there."""
        site = str(folder / ".site")
        return {**self.environment, "PYTHONPATH": site, "PIP_TARGET": site}

    def run(self, text: str, folder: Path) -> tuple[int, str]:
        """Run commands up to one that fails; returns the exit code and the output."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=self.surroundings(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout


@dataclass
class Reader:
    """Who does what a page says, block by block, in a folder."""

    shell: Shell
    folder: Path
    python: subprocess.Popen[str] | None = None

    def follow(self, block: Block) -> list[str]:
        """Do what a block says; returns what went otherwise than the page has it."""
        if block.title is not None:
            (self.folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.title).write_text(block.text, encoding="utf-8")
            return []
        if block.language in ("sh", "console"):
            return self._type(block)
        if block.language == "python":
            return self._say(block, [(block.text, "exec")], None)
        if block.language == "pycon":
            examples = doctest.DocTestParser().get_examples(block.text)
            wanted = "".join(example.want for example in examples)
            return self._say(block, [(example.source, "single") for example in examples], wanted)
        return []

    def leave(self) -> None:
        """End the page."""
        if self.python is not None:
            self.python.communicate()

    def _unlike(self, shown: str, printed: str) -> str | None:
        return unlike(shown, printed, by_number=self.shell.is_real)

    def _type(self, block: Block) -> list[str]:
        wrong = []
        for command in commands(block):
            code, printed = self.shell.run(command.text, self.folder)
            differs = None if command.shown is None else self._unlike(command.shown, printed)
            if code or differs is not None:
                told = f"the page shows: {differs}" if differs else f"exit code {code}"
                wrong.append(f"{block.where}: {command.text}{told}\nprinted:\n{printed}")
        return wrong

    def _say(self, block: Block, sources: list[tuple[str, str]], wanted: str | None) -> list[str]:
        if self.python is None:
            self.python = subprocess.Popen(
                ["python", str(HERE / "session.py")],
                cwd=self.folder,
                env=self.shell.surroundings(self.folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.python.stdin is not None
        assert self.python.stdout is not None
        print(json.dumps(sources), file=self.python.stdin, flush=True)
        answer = self.python.stdout.readline()
        if not answer:
            return [f"{block.where}: Python ended"]
        printed, failed = json.loads(answer)
        differs = None if wanted is None else self._unlike(wanted, printed)
        if failed or differs is not None:
            return [f"{block.where}: {failed or differs}\nprinted:\n{printed}"]
        return []


def quick_shell(scratch: Path, models: list[str]) -> tuple[Shell, subprocess.Popen[bytes]]:
    """Return a shell whose commands are forked, and the process that forks them.

    Small models stand in for timm's. The process ends when its standard input does.
    """
    address = scratch / "socket"
    write_shims(scratch / "bin", address)
    environment = _environment(scratch) | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "zygote.py"), str(address), *models]
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
    while not address.exists():
        assert server.poll() is None, "the server of commands did not start"
        time.sleep(0.02)
    return Shell(environment, is_real=False), server


def real_shell(scratch: Path, weights: Path, python: Path = Path(sys.executable)) -> Shell:
    """Return a shell with the real commands, and the real model in the hub's cache."""
    (scratch / "bin").mkdir()
    for name, module in (("fungi", " -m fungi_cli"), ("pip", " -m pip"), ("python", "")):
        (scratch / "bin" / name).write_text(f'#!/bin/sh\nexec {python}{module} "$@"\n')
        (scratch / "bin" / name).chmod(0o755)
    environment = _environment(scratch)
    published = hub_folder(MODEL, Path(environment["HF_HOME"])) / "model.safetensors"
    published.symlink_to(weights)
    return Shell(environment, is_real=True)


def _environment(scratch: Path) -> dict[str, str]:
    own = {
        "HF_HOME": str(scratch / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HOME": str(scratch),
        "MPLBACKEND": "agg",
        "PATH": f"{scratch / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
    }
    return os.environ | own
