"""What a command leaves on a terminal, whatever ends it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"
STAGE = """
import sys, time
import typer
from fungi_cli.flags import Json, command
from fungistore.machine.context import Context

how = sys.argv.pop()

@command
def wait(*, as_json: Json = False, context: Context) -> None:
    context.reporter.begin("waiting", 100)
    for _ in range(1000):
        context.reporter.advance(1)
        if how == "error":
            raise RuntimeError("nobody foresaw this")
        if how == "polite":
            context.stop_if_asked()
        time.sleep(0.01)

app = typer.Typer()
app.command()(wait)
app()
"""


def read_all(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(terminal, 65536)
        except OSError:  # its other end was closed
            return


@pytest.mark.parametrize(
    ("how", "numbers", "code", "said"),
    [
        ("polite", [signal.SIGINT], 130, "stopped on request"),
        ("polite", [signal.SIGTERM], 75, "stopped on request"),
        ("stubborn", [signal.SIGINT, signal.SIGINT], -signal.SIGINT, "once more to stop at once"),
        ("stubborn", [signal.SIGINT, signal.SIGTERM], -signal.SIGTERM, "once more"),
        ("error", [], 1, "nobody foresaw this"),
    ],
    ids=["^C", "SIGTERM", "^C twice", "^C and SIGTERM", "an error"],
)
def test_whatever_ends_a_command_the_cursor_is_back_and_the_bar_gone(
    how: str, numbers: list[signal.Signals], code: int, said: str
) -> None:
    """After the last hidden cursor comes a shown one, and after that no bar."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE, how],
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    shown = b""
    while numbers and b"waiting" not in shown:
        shown += os.read(ours, 65536)
    for number in numbers:
        process.send_signal(number)
        while b"once more" not in shown:
            shown += os.read(ours, 65536)
    shown += b"".join(read_all(ours))
    os.close(ours)
    assert process.wait() == code
    text = shown.decode()
    assert said in text
    assert text.rindex(SHOW) > text.rindex(HIDE)
    assert "waiting" not in text[text.rindex(SHOW) :]
