"""One display of the progress of many slices, most of which have not begun."""

from __future__ import annotations

from dataclasses import dataclass

from fungistore.report import Reporter

REMEMBERED = 1000  # notices: what was said before the last so many is said again
WITHIN = 0.02  # a guess of the total that is as near as that is not corrected
HELD = ": held by "


@dataclass
class _Part:
    what: str
    total: int
    done: int


class JointProgress:
    """Shows slices as one, and says what their workers say once.

    Args:
        reporter: the one that all is shown with.
        count: of the slices; those that have not begun count as large as the others.
    """

    def __init__(self, reporter: Reporter, count: int) -> None:
        self._reporter = reporter
        self._count = count
        self._parts: dict[int, _Part] = {}
        self._shown = _Part("", 0, 0)
        self._told: dict[str, None] = {}

    def notice(self, who: str, text: str) -> None:
        """Say a thing, unless somebody has said the same."""
        key = text.partition(HELD)[0]  # workers wait for each other all the time
        if key in self._told:
            return
        self._told[key] = None
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        self._reporter.notice(f"{who}: {text}")

    def update(self, index: int, what: str, total: int, done: int) -> None:
        """Take in how far a slice is."""
        self._parts[index] = _Part(what, total, done)

    def finished(self, index: int) -> None:
        """Take in that a slice has been done."""
        part = self._parts.get(index)
        if part is None:
            self._parts[index] = _Part("", 0, 0)  # it had nothing to show
        else:
            part.done = part.total

    def show(self) -> None:
        """Move the display on: that of the stage that most of the work is in."""
        busy = [part for part in self._parts.values() if part.what]
        if not busy:
            return
        what = max(busy, key=lambda part: part.total).what
        same = [part for part in busy if part.what == what]
        total, done = sum(part.total for part in same), sum(part.done for part in same)
        total += total * (self._count - len(self._parts)) // len(same)
        shown = self._shown
        is_settled = len(self._parts) == self._count and total != shown.total
        is_off = abs(total - shown.total) > WITHIN * shown.total
        if what != shown.what or is_off or is_settled or done < shown.done:
            self._reporter.begin(what, total, done)
            self._shown = _Part(what, total, done)
        elif done > shown.done:
            self._reporter.advance(done - shown.done)
            shown.done = done

    def end(self) -> None:
        """Remove the display."""
        self._reporter.end()
