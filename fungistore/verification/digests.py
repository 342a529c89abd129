"""The digests of items: each file against its own checksum, and against the arrays beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fungistore.machine.context import Context
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.folder import Folder
from fungistore.store.item_digests import CONTENTS, file_unit, parse_digests
from fungistore.store.store import Store
from fungistore.verification.arrays import StoredArray
from fungistore.verification.findings import Finding, Remedy, readable


def check_digests(
    store: Store, arrays: Iterable[StoredArray], context: Context
) -> Iterator[Finding]:
    """Find files of digests that are damaged, or of units that no array can have."""
    units: dict[str, int] = {}
    for stored in arrays:
        name = stored.array.feature_set
        units[name] = max(units.get(name, 0), stored.array.units)
    for folder in store.folder(CONTENTS).folders():
        for name in folder.list().files:
            context.stop_if_asked()
            found = _checked(folder, name, units.get(folder.name))
            yield from readable(store.backend, folder.key_of(name), found)


def _checked(folder: Folder, name: str, units: int | None) -> Iterator[Finding]:
    unit = file_unit(name)
    wrong = ""
    if unit is None or (units is not None and unit >= units):  # None: its arrays are lost
        wrong = "of none"
    else:
        try:
            parse_digests(folder.read(name))
        except (OSError, ValueError) as error:
            raise_unreadable(error)
            wrong = str(error)
    if wrong:
        key = folder.key_of(name)
        remedy = Remedy("removed: its items count as changed once they are touched", remove=(key,))
        expected = "digests of the items of a unit"
        yield Finding("digests-damaged", key, expected, wrong, "warning", remedy)
