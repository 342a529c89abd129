"""How long stages tell what they do: the command line shows it, a library call is silent."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives notices and progress from a stage."""

    def notice(self, text: str) -> None:
        """Say one thing that the user should know."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Start (or replace) the progress display: `total` items, of which `done` are there."""

    def advance(self, count: int) -> None:
        """Move the display on by some items."""

    def end(self) -> None:
        """Remove the progress display."""


class Silent:
    """A reporter that says nothing."""

    def notice(self, text: str) -> None:
        """Do nothing."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Do nothing."""

    def advance(self, count: int) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""
