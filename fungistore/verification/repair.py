"""`fungi verify --repair`: drop what is wrong, so that the next run makes exactly that again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fungistore.engines.engine import Engine
from fungistore.engines.pieces import ALONE
from fungistore.errors import FungiError, StoreError
from fungistore.machine.context import DEFAULT, Context
from fungistore.store.backend import Backend, open_backend
from fungistore.store.store import Store
from fungistore.verification.findings import Finding, Remedy, Repair, errors_first
from fungistore.verification.masks import KIND as MASKS_DAMAGED
from fungistore.verification.masks import make_again
from fungistore.verification.verify import check_store, verify_store

ROUNDS = 3  # metadata that are written anew let their units be checked; these may be bad too


def repair_store(
    path: str | Path,
    *,
    engine: Engine = ALONE,
    context: Context = DEFAULT,
) -> Repair:
    """Verify a store and repair what can be: nothing that holds what its record says is touched.

    A bad unit loses its record, then its chunk. Unfinished files go. Metadata are written anew
    where setups and records tell what they were. A damaged index is removed; damaged masks are read
    again from their files. The sample table,
    setups, heads and `store.json` cannot be made again from the rest, and are left as they are.

    Args:
        path: the store's directory.
        engine: who reads which units; repairs are this process's.
        context: its reporter is told what happens, its stop asked between units, and between
            repairs.

    Raises:
        UsageError: there is no store.
        FungiError: another process is writing, or the store cannot be written to.
        StoppedError: `context` asked for it; what was repaired stays so.
    """
    place = open_backend(path)
    try:
        Store.open(place)
    except StoreError:
        return Repair(verify_store(path, engine=engine, context=context))
    repaired: list[Finding] = []
    notes: list[str] = []
    with Store.open(place).writing() as store:
        for _ in range(ROUNDS):
            found = check_store(store, context, is_being_written=False, engine=engine)
            can_be = [finding for finding in found.findings if finding.remedy is not None]
            for finding in can_be:
                context.stop_if_asked()
                assert finding.remedy is not None
                _apply(store.backend, finding.remedy)
            repaired += can_be
            if any(finding.kind == MASKS_DAMAGED for finding in can_be):
                lost = make_again(store, context)
                notes += [lost] if lost else []
            left = [finding for finding in found.findings if finding.remedy is None]
            # a rewritten file, or a group that is there again, may show more: look again
            if not any(finding.remedy and finding.remedy.write for finding in can_be):
                break
    dropped = (finding.remedy.then for finding in repaired if finding.remedy)
    commands = tuple(dict.fromkeys(command for command in dropped if command))
    found = replace(found, findings=errors_first(left), notes=(*found.notes, *notes))
    return Repair(found, errors_first(repaired), commands)


def _apply(backend: Backend, remedy: Remedy) -> None:
    for key in (*remedy.remove, *(key for key, _ in remedy.write)):
        _refuse_outside(backend, key)
    try:
        for key in remedy.remove:
            backend.remove(key)
        for key, data in remedy.write:
            backend.publish(key, data)
    except OSError as error:
        raise FungiError(
            "the store cannot be repaired",
            where=error.filename or backend.where,
            found=error.strerror or str(error),
            hint="make it writable, then run fungi verify --repair again",
        ) from error


def _refuse_outside(backend: Backend, key: str) -> None:
    """Raise FungiError where links lead from the store to a file elsewhere, which is not its own.

    A link itself can be removed.
    """
    if not backend.is_own(key):
        raise FungiError(
            "the store cannot be repaired: a link leads out of it",
            where=f"{backend.where}/{key}",
            expected=f"files below {backend.where}",
            hint="look at what is there; put the folder in the place of the link, and repair again",
        )
