"""Commands as a shell takes them: what we print to be typed, or pasted, does what it says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def command_line(words: Sequence[str]) -> str:
    """Return words as one line, which names the same files when a shell has read it.

    What cannot be shown, such as the line break in a file's name, is written as in C.
    """
    return " ".join(map(_quoted, words))


def operand(path: str | Path) -> str:
    """Return a path that no command takes for an option, though its name may begin like one."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_in_c, word)) + "'"


def _in_c(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if character.isprintable():
        return character
    # three digits, so that no digit after it becomes a part of it
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
