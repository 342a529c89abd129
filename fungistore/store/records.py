"""The commit records of some arrays as of one moment, and what they say of what was made of them.

A unit of a PCA that was made from other rows than there are now counts as not there: it is made
once more, and read by nobody before.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from fungistore.store.commit import Commit
from fungistore.store.contents import Commits, Content, Contents, State, state_of
from fungistore.store.units import UnitArray


class Records:
    """Reads the records of each array once, when they are first asked for.

    Args:
        arrays: those that are asked for, and those that they were made from, where these are there.
        units: whose records are read; default: all.
    """

    def __init__(self, arrays: Iterable[UnitArray], units: Container[int] | None = None) -> None:
        self._units = units
        self._arrays = {array.name: array for array in arrays}
        self._read: dict[str, Commits] = {}
        self._current: dict[str, Commits] = {}
        self._states: dict[tuple[str, Content], State] = {}

    @property
    def arrays(self) -> tuple[UnitArray, ...]:
        """Those whose records these are."""
        return tuple(self._arrays.values())

    def of(self, name: str) -> Commits:
        """Return the records of an array, without those of units that are out of date."""
        if name not in self._current:
            commits, changed = self.written(name), self.out_of_date(name)
            self._current[name] = {u: commit for u, commit in commits.items() if u not in changed}
        return self._current[name]

    def written(self, name: str) -> Commits:
        """Return all records of an array."""
        if name not in self._read:
            array, some = self._arrays[name], self._units
            self._read[name] = array.commits() if some is None else array.commits(some)
        return self._read[name]

    def out_of_date(self, name: str) -> dict[int, list[str]]:
        """Return the units that were made from other rows than there are, with these arrays.

        Rows that are not there say nothing: made again, they may be what they were.
        """
        found = {}
        for unit, commit in self.written(name).items():
            if changed := [one for one, then in commit.inputs if self._is_other(one, commit, then)]:
                found[unit] = changed
        return found

    def inputs_of(self, names: Iterable[str], unit: int, rows: int) -> tuple[tuple[str, str], ...]:
        """Return what a unit's first rows are in some arrays, as a record of it keeps them."""
        now = ((name, self._checksum(name, unit, rows)) for name in names)
        return tuple((name, checksum) for name, checksum in now if checksum is not None)

    def states(self, contents: Contents) -> dict[str, State]:
        """Tell for each array that is there whether the rows that were used are still the same."""
        found = {}
        for name, content in contents.items():
            if name not in self._arrays:
                continue
            if (name, content) not in self._states:
                state = state_of(self._arrays[name], content, self.of(name))
                self._states[name, content] = state
            found[name] = self._states[name, content]
        return found

    def _is_other(self, name: str, commit: Commit, then: str) -> bool:
        return self._checksum(name, commit.unit, commit.rows) not in (None, then)

    def _checksum(self, name: str, unit: int, rows: int) -> str | None:
        commit = self.written(name).get(unit) if name in self._arrays else None
        return None if commit is None else self._arrays[name].checksum_of(commit, rows)


def named(states: Mapping[str, State], state: State) -> tuple[str, ...]:
    """Return the names of the arrays in a state."""
    return tuple(name for name, found in states.items() if found == state)
