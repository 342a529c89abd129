"""What can be added from outside: objectives, modalities, backbone families, engines, evaluations.

Our own are named here, by where they are; a package of somebody else's names its own as entry
points of the same group, and needs no change to ours:

    [project.entry-points."fungistore.objectives"]
    agreement = "their_package:Agreement"

Nothing is imported before it is asked for, and a child process finds what its parent found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fungistore.errors import UsageError, did_you_mean


class Registry(Mapping[str, Any]):
    """Things of one kind by their names; a name of our own cannot be taken by a plug-in.

    Args:
        kind: what they are, in the singular, such as "objective".
        group: the entry points' group, such as "fungistore.objectives".
        own: where our own are, such as {"kl": "fungistore.objectives.kl:KL"}, in order.
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._own = {name: EntryPoint(name, where, group) for name, where in own.items()}
        self._loaded: dict[str, Any] = {}

    @property
    def own(self) -> tuple[str, ...]:
        """The names that are ours, and no plug-in's."""
        return tuple(self._own)

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        found = sorted(entry_points(group=self.group), key=lambda point: point.name)
        return {point.name: point for point in found} | self._own

    def __getitem__(self, name: str) -> Any:
        """Return the thing called `name`, importing it the first time.

        Raises:
            KeyError: there is none.
            UsageError: a plug-in's cannot be imported, or two of them have that name.
        """
        if name not in self._loaded:
            point = self._own.get(name) or self._points[name]
            if name not in self._own:
                self._refuse_rivals(name)
            try:
                self._loaded[name] = point.load()
            except Exception as error:  # a plug-in may raise anything
                if name in self._own:
                    raise
                raise UsageError(
                    f"the {self.kind} {name!r} of a plug-in cannot be imported",
                    where=f"entry point {point.name} = {point.value}",
                    found=f"{type(error).__name__}: {error}",
                    hint="mend or uninstall the package that declares it",
                ) from error
        return self._loaded[name]

    def _refuse_rivals(self, name: str) -> None:
        values = {point.value for point in entry_points(group=self.group, name=name)}
        if len(values) > 1:
            raise UsageError(
                f"the {self.kind} {name!r} is declared by two plug-ins",
                where=f"entry points {name} of {self.group}",
                found=" and ".join(sorted(values)),
                hint="uninstall one of the packages that declare it",
            )

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names: our own in their order, then those of plug-ins."""
        yield from self._own
        yield from (name for name in self._points if name not in self._own)

    def __len__(self) -> int:
        return len(self._points)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._points

    def choose(self, name: str, where: object) -> Any:
        """Return the thing called `name`.

        Raises:
            UsageError: there is none; `where` is the flag or field that named it.
        """
        if name not in self:
            raise UsageError(
                f"unknown {self.kind}",
                where=where,
                expected=" or ".join(self),
                found=name,
                hint=did_you_mean(name, self),
            )
        return self[name]
