"""Units checked by the workers of an engine: what each found comes back, and is put in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from fungistore.engines.engine import DividedWork, Engine, Place, RunSlice
from fungistore.engines.pieces import is_alone, place_of
from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.store.locks import Slice
from fungistore.store.store import Store
from fungistore.verification.arrays import StoredArray, read_arrays
from fungistore.verification.units import CheckedUnit, check_units

CHECKED = TypeAdapter(tuple[CheckedUnit, ...])


def check_units_by(
    engine: Engine,
    store: Store,
    arrays: tuple[StoredArray, ...],
    rows: int | None,
    context: Context,
) -> Iterator[CheckedUnit]:
    """Check every unit that has a record, and yield them in order, whoever checked them.

    A unit that no worker has met, as where a record came meanwhile, is checked here.

    Args:
        engine: who reads which units.
        store: it.
        arrays: of the store.
        rows: of the sample table, None where it is not sound.
        context: its reporter is told what happens, its stop asked between units.

    Raises:
        StoppedError: `context` asked for it.
    """
    found: dict[tuple[str, int], CheckedUnit] = {}
    if not is_alone(engine):
        place, most = place_of(store), max((len(one.records) for one in arrays), default=0)
        arguments = {"store": place, "where": store.where, "rows": rows}
        function = f"{__name__}:{open_checks.__name__}"
        work = DividedWork(function, arguments, store=place, units=most)
        for result in engine.run(work, context):
            units = CHECKED.validate_python(result["units"])
            found |= {(unit.array, unit.unit): unit for unit in units}
    here = check_units(store, arrays, context, lambda array, unit: (array, unit) not in found)
    for stored in arrays:
        for unit in stored.records:
            key = (stored.array.name, unit)
            yield found[key] if key in found else next(here)


def open_checks(arguments: Config, place: Place, context: Context) -> RunSlice:
    """Open a store in a worker, and return what checks the units of a slice, writing nothing."""
    full, told = arguments["store"], arguments["where"]
    # findings name it as the one who asked does, if a worker's way there is the same
    store = Store.open(told if str(Path(told).absolute()) == full else full)
    arrays = read_arrays(store, arguments["rows"]).arrays

    def run(part: Slice) -> Config:
        units = tuple(check_units(store, arrays, context, lambda array, unit: unit in part))
        return {"units": CHECKED.dump_python(units, mode="json")}

    return run
