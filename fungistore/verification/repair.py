"""`fungi verify --repair`: drop what is wrong, so that the next run makes exactly that again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from fungistore.errors import FungiError, StoreError
from fungistore.machine.context import QUIET, Context
from fungistore.store.durable import publish_bytes, sync
from fungistore.store.store import Store
from fungistore.verification.findings import Finding, Remedy, Repair, errors_first
from fungistore.verification.verify import check_store, verify_store

ROUNDS = 3  # metadata that are written anew let their units be checked; these may be bad too


def repair_store(
    path: str | Path,
    *,
    context: Context = QUIET,
) -> Repair:
    """Verify a store and repair what can be: nothing that holds what its record says is touched.

    A bad unit loses its record, then its chunk. Unfinished files go. Metadata are written anew
    where setups and records tell what they were. A damaged index is removed. The sample table,
    setups, heads and `store.json` cannot be made again from the rest, and are left as they are.

    Args:
        path: the store's directory.
        context: its reporter is told what happens, its stop asked between units, and between
            repairs.

    Raises:
        UsageError: there is no store.
        FungiError: another process is writing, or the store cannot be written to.
        StoppedError: `stop` asked for it; what was repaired stays so.
    """
    root = Path(path)
    try:
        Store.open(root)
    except StoreError:
        return Repair(verify_store(root, context=context))
    repaired: list[Finding] = []
    with Store.open(root).writing():
        store = Store.open(root)
        for _ in range(ROUNDS):
            found = check_store(store, context, is_being_written=False)
            can_be = [finding for finding in found.findings if finding.remedy is not None]
            for finding in can_be:
                context.stop_if_asked()
                assert finding.remedy is not None
                _apply(store.root, finding.remedy)
            repaired += can_be
            left = [finding for finding in found.findings if finding.remedy is None]
            # a rewritten file, or a group that is there again, may show more: look again
            if not any(finding.remedy and finding.remedy.write for finding in can_be):
                break
    dropped = (finding.remedy.then for finding in repaired if finding.remedy)
    commands = tuple(dict.fromkeys(command for command in dropped if command))
    return Repair(replace(found, findings=errors_first(left)), errors_first(repaired), commands)


def _apply(root: Path, remedy: Remedy) -> None:
    for path in (*remedy.remove, *(path for path, _ in remedy.write)):
        _refuse_outside(root, path)
    try:
        for path in remedy.remove:
            _remove(path)
        for path, data in remedy.write:
            publish_bytes(path, data)
    except OSError as error:
        raise FungiError(
            "the store cannot be repaired",
            where=error.filename or root,
            found=error.strerror or str(error),
            hint="make it writable, then run fungi verify --repair again",
        ) from error


def _refuse_outside(root: Path, path: Path) -> None:
    """Raise FungiError where links lead from the store to a file elsewhere, which is not its own.

    A link itself can be removed.
    """
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise FungiError(
            "the store cannot be repaired: a link leads out of it",
            where=path,
            expected=f"files below {root.resolve()}",
            found=path.parent.resolve(),
            hint="look at what is there; put the folder in the place of the link, and repair again",
        )


def _remove(path: Path) -> None:
    """Delete a file or folder durably; what is gone already is as it should be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync(path.parent)
