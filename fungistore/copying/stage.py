"""`fungi copy`: a store, or some of its features, from one place to another, resumed and verified.

The order: a mark of a copy that has begun, what units rely on, of each array chunks and then their
records, what was made of the arrays, and last `store.json`: without it there is no store. A copy of
a copy that is there adds what it lacks, in an order in which it is a store at every moment.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fungistore.copying.chosen import Arrays, chosen_arrays, files_after, files_before
from fungistore.copying.options import CopyOptions
from fungistore.copying.transfer import Transfer
from fungistore.copying.units import Unit, committed, lacking, send_units
from fungistore.errors import FungiError, MismatchError, StoreError, UsageError
from fungistore.machine.context import DEFAULT, Context
from fungistore.quantities import counted
from fungistore.store.backend import Backend, open_backend
from fungistore.store.chunks import METADATA
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.folder import Folder
from fungistore.store.groups import read_metadata, ready_groups
from fungistore.store.half_copy import MARKER, half_copy
from fungistore.store.locks import StoreLocks
from fungistore.store.manifest import Manifest, parse_manifest
from fungistore.store.samples import Part, SampleTable
from fungistore.store.store import MANIFEST, SAMPLES, Store
from fungistore.store.units import COMMITS, FEATURES


@dataclass(frozen=True)
class CopyResult:
    """What was copied.

    Attributes:
        source: the store's place.
        target: the copy's.
        id: of the store, and of its copy.
        arrays: that were asked for.
        units: how many the arrays have, and how many were sent now.
        files: how many other objects were sent now.
        bytes: that were sent now.
        verified: objects that were compared after they arrived, by the way.
        is_dry_run: whether nothing was written.
    """

    source: str
    target: str
    id: str
    arrays: tuple[str, ...]
    units: Mapping[str, int]
    files: int
    bytes: int
    verified: Mapping[str, int]
    is_dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def copy_store(
    store: str | Path | Backend | Store,
    target: str | Path | Backend,
    options: CopyOptions | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    context: Context = DEFAULT,
) -> CopyResult:
    """Copy a store, or some of its features: between directories and URLs, in any direction.

    The same call again continues, or brings the copy up to date. The copy has the id of the store,
    since it is the same store; one of them may grow, and then be copied onto the other.

    Args:
        store: the store, or its place.
        target: the place of the copy: a directory, or a URL.
        options: which features.
        overwrite: replace rows of the target that differ from the store's.
        dry_run: look, and write nothing.
        context: its reporter is told what happens; its stop is asked between batches.

    Raises:
        UsageError: a feature is not there, or the target's place is taken by something else.
        MismatchError: the target is another store, or has rows that the store has not.
        StoreError: the store is damaged, or what has arrived is not what was sent.
        FungiError: another process is writing what would be copied, or into the target.
    """
    source, options = Store.open(store), options or CopyOptions()
    backend = open_backend(target)
    _refuse_own(source, backend)
    _refuse_writers(source, context)
    copy = _Copy(source, backend, options, overwrite, dry_run, context)
    before = copy.before()
    if dry_run:
        return copy.run(before)
    if before is None and half_copy(backend) is None and not backend.make_room():
        raise UsageError(
            "the copy's place is taken by something else",
            where=backend.where,
            expected="a copy of this store, an empty directory, or nothing",
        )
    with (
        disk_errors_explained(backend.where, "what has arrived is kept, and a copy goes on there"),
        StoreLocks(backend.where, backend.claims).hold([""]),
    ):
        return copy.run(copy.before())


def _refuse_own(source: Store, target: Backend) -> None:
    """Refuse a target that is the store, or a place in it, however it is spelled."""
    mine, theirs = source.backend.directory(), target.directory()
    if mine is not None and theirs is not None:
        mine, theirs = mine.resolve(), theirs.resolve()
        is_itself, is_inside = theirs == mine, mine in theirs.parents
    else:
        is_itself = target.where == source.where
        is_inside = target.where.startswith(f"{source.where}/")
    if is_itself or is_inside:
        raise UsageError(
            f"a store cannot be copied {'onto' if is_itself else 'into'} itself",
            where=target.where,
            expected=f"a place outside of {source.where}",
        )


def _refuse_writers(store: Store, context: Context) -> None:
    """Refuse to copy what changes in several steps; committed units do not."""
    for claim in store.writers():
        if not claim.thing.startswith("features/"):
            raise FungiError(
                f"another process is writing {claim.thing or 'into the store'}",
                where=store.where,
                found=claim,
                hint="wait for it to end, then run the same command again",
            )
        context.reporter.notice("the store is being written: what is committed now is copied")


class _Copy:
    def __init__(
        self,
        source: Store,
        backend: Backend,
        options: CopyOptions,
        overwrite: bool,
        dry_run: bool,
        context: Context,
    ) -> None:
        self.source = source
        self.backend = backend
        self.target = Folder(backend)
        self.overwrite = overwrite
        self.context = context
        self.is_whole = options.features is None and options.feature_set is None
        self.arrays: Arrays = chosen_arrays(source, options)
        self.transfer = Transfer(source.backend, backend, is_dry=dry_run)

    def before(self) -> Manifest | None:
        """Return the manifest of the copy that is there, None where none has ended.

        Raises:
            MismatchError: the target is, or becomes, another store, or has other samples.
        """
        found = None
        if self.backend.has(MANIFEST):
            found = parse_manifest(self.backend.read(MANIFEST), f"{self.backend.where}/{MANIFEST}")
        begun = half_copy(self.backend) or {}
        theirs = found.id if found else begun.get("store")
        if theirs is not None and theirs != self.source.manifest.id:
            raise MismatchError(
                "the target is another store",
                where=self.backend.where,
                expected=f"id {self.source.manifest.id}, of {self.source.where}",
                found=f"id {theirs}",
                hint="choose another place for the copy",
            )
        if found is not None:
            self._refuse_longer(found)
        return found

    def _refuse_longer(self, found: Manifest) -> None:
        mine, theirs = self.source.manifest.parts, found.parts
        rows = [(part.rows, part.root) for part in mine]
        if [(part.rows, part.root) for part in theirs] != rows[: len(theirs)]:
            raise MismatchError(
                "the copy has samples that the store has not: both have grown, or the copy has",
                where=self.backend.where,
                expected=f"{counted(sum(n for n, _ in rows), 'row')} of {self.source.where}, "
                "or the first of them",
                found=counted(sum(part.rows for part in theirs), "row"),
                hint="copy in the other direction, or to another place",
            )
        for part, other in zip(mine, theirs, strict=False):
            is_same = part.checksum is not None and part.checksum == other.checksum
            if not (is_same or self._has_ids(part, other)):
                raise MismatchError(
                    "the copy has other samples in its rows: both have grown, by different ones",
                    where=self.target.at(SAMPLES).where(other.file),
                    expected=f"the ids of {self.source.folder(SAMPLES).where(part.file)}",
                    found="other ids: features that only the copy has would get wrong names",
                    hint="copy to another place",
                )

    def _has_ids(self, part: Part, other: Part) -> bool:
        """Whether a part of the copy, whose labels may differ, has the samples of the store's."""
        mine = SampleTable(self.source.folder(SAMPLES), [part]).ids()
        theirs = SampleTable(self.target.at(SAMPLES), [other]).ids()
        return all(one == two for one, two in zip_longest(mine, theirs))

    def run(self, before: Manifest | None) -> CopyResult:
        """Copy what the target lacks."""
        manifest = self.source.manifest
        units = {name: committed(a, len(self.source.samples)) for name, a in self.arrays.items()}
        wanted = {name: self._lacking(name, found) for name, found in units.items()}
        total = sum(map(len, units.values()))
        to_do = sum(map(len, wanted.values()))
        self._tell(before, total, to_do)
        is_dry = self.transfer.is_dry
        if not is_dry and before is None and half_copy(self.backend) is None:
            begun = {"store": manifest.id, "source": self.source.where}
            self.backend.publish(MARKER, json.dumps(begun).encode())
        self._samples()
        for key in files_before(self.source, self.arrays, is_whole=self.is_whole):
            self.context.stop_if_asked()
            self.transfer.file(key)
        if not is_dry and before is not None and before != manifest:
            self.backend.publish(MANIFEST, manifest.to_json())
        self.context.reporter.begin("units", total, done=total - to_do)
        for name, array in self.arrays.items():
            if not is_dry:
                self._array(name)
                send_units(array, wanted[name], self.transfer, self.context)
        self.context.reporter.end()
        for key in files_after(self.source, self.arrays, is_whole=self.is_whole):
            self.context.stop_if_asked()
            self.transfer.file(key)
        if not is_dry:
            if before is None:
                self.backend.publish(MANIFEST, manifest.to_json())
            self.backend.remove(MARKER)
        sent = Counter(self.transfer.verified)
        return CopyResult(
            source=self.source.where,
            target=self.backend.where,
            id=manifest.id,
            arrays=tuple(self.arrays),
            units={"total": total, "copied": to_do},
            files=self.transfer.files,
            bytes=self._bytes(wanted) if is_dry else self.transfer.bytes,
            verified=dict(sent),
            is_dry_run=is_dry,
        )

    def _bytes(self, wanted: Mapping[str, list[Unit]]) -> int:
        return sum(unit.commit.bytes for some in wanted.values() for unit in some)

    def _tell(self, before: Manifest | None, total: int, to_do: int) -> None:
        done = total - to_do
        if before is not None or half_copy(self.backend) is not None:
            word = "resuming" if before is None else "updating a copy"
            self.context.reporter.notice(f"{word}: {done}/{total} units done, {to_do} to go")

    def _lacking(self, name: str, units: dict[int, Unit]) -> list[Unit]:
        """Return the units that the target lacks; all where its array is another."""
        array = self.arrays[name]
        folder = self.target.at(FEATURES, name)
        stored = read_metadata(folder)
        if stored is not None and self._is_other(stored, name):
            if not self.overwrite:
                raise MismatchError(
                    f"the copy has another {name}",
                    where=folder.where(),
                    expected=f"of setup {array.fingerprint}, codec {array.codec}",
                    found=f"attributes {stored.get('attributes')}",
                    hint="--overwrite replaces what differs by what STORE has",
                )
            return list(units.values())
        records = self.target.at(COMMITS, name)
        return lacking(array, units, records, folder, overwrite=self.overwrite)

    def _is_other(self, stored: Mapping[str, Any], name: str) -> bool:
        """Whether metadata differ from the source's in more than the number of rows."""
        mine = read_metadata(self.arrays[name].folder) or {}
        both = [json.loads(json.dumps(one)) for one in (stored, mine)]
        for one in both:
            one.get("shape", [0])[0] = 0
        return bool(both[0] != both[1])

    def _samples(self) -> None:
        table = self.source.folder(SAMPLES)
        for part in self.source.manifest.parts:
            self.context.stop_if_asked()
            key = table.key_of(part.file)
            if part.checksum not in (None, table.digest(part.file)):
                raise StoreError(
                    "a part of the sample table is damaged",
                    where=table.where(part.file),
                    expected=f"checksum {part.checksum}",
                    hint="fungi verify STORE --repair",
                )
            self.transfer.file(key)

    def _array(self, name: str) -> None:
        """Let the target have the array, of as many rows as the store has samples."""
        mine = read_metadata(self.arrays[name].folder)
        assert mine is not None
        mine["shape"][0] = min(mine["shape"][0], len(self.source.samples))
        folder = self.target.at(FEATURES, name)
        stored = read_metadata(folder)
        if stored is not None and self._is_other(stored, name):
            self.target.at(COMMITS).remove(name)  # first, so that nothing vouches for what goes
            self.target.at(FEATURES).remove(name)
            stored = None
        if stored is None or stored["shape"][0] < mine["shape"][0]:
            ready_groups(self.target.at(FEATURES), name)
            folder.publish(METADATA, json.dumps(mine, indent=2).encode())
