"""How many neighbours there can be: no more than there are training rows, which is said before."""

from __future__ import annotations

from fungistore.evaluation.options import Vote
from fungistore.machine.context import Context
from fungistore.quantities import counted


def neighbours_used(k: int, rows: int, context: Context, use: str) -> int:
    """Return how many neighbours each query has, up to k; fewer than k are said.

    Args:
        k: asked for.
        rows: to choose them from.
        context: its reporter is told.
        use: what becomes of all of them.
    """
    if k > rows:
        _say(k, rows, context, use)
    return min(k, rows)


def say_votes(k: int, rows: int, vote: Vote, context: Context) -> None:
    """Say it where fewer than k neighbours vote; a majority of all rows tells nothing."""
    if vote == "majority" and k >= rows:
        use = "all of them vote, so every test row is said to be of the largest class"
        _say(k, rows, context, use)
    else:
        neighbours_used(k, rows, context, "all of them vote, the nearest most")


def _say(k: int, rows: int, context: Context, use: str) -> None:
    context.reporter.notice(
        f"--k {k} of {counted(rows, 'training row')}: {counted(rows, 'is', 'are')} used; {use}"
    )
