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
        context.reporter.notice(
            f"--k {k} of {counted(rows, 'training row')}: {counted(rows, 'is', 'are')} used; {use}"
        )
    return min(k, rows)


def say_votes(k: int, rows: int, vote: Vote, context: Context) -> None:
    """Say it where fewer than k neighbours vote; a majority of all rows tells nothing."""
    use = "all of them vote, the nearest most"
    if vote == "majority":
        use = "all of them vote, so every test row is said to be of the largest class"
    neighbours_used(k, rows, context, use)
