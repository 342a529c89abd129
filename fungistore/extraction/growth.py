"""How many bytes an extraction adds to a store: whole chunks, records, and what is frozen first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from fungistore.choices import Codec
from fungistore.extraction.banks import samples_of, stand_in
from fungistore.extraction.borrowing import Banks
from fungistore.extraction.freeze import setup_parts
from fungistore.extraction.plan import Gap
from fungistore.extraction.resolve import Resolved
from fungistore.fingerprint import Config, fingerprint
from fungistore.store.chunks import most_bytes
from fungistore.store.commit import Commit, encode_commit
from fungistore.store.feature import Feature, objective_name
from fungistore.store.folder import Folder
from fungistore.store.item_digests import file_bytes
from fungistore.store.samples import SampleTable
from fungistore.store.setups import Setups, encode_setup
from fungistore.store.store import MANIFEST, SAMPLES, Store
from fungistore.store.units import FEATURES, UnitArray

DIGEST = "0" * 32  # as long as every digest and fingerprint
PREFIX_BYTES = len(f'[100, "{DIGEST}"]')  # in the record of a unit that is completed


def growth_of_units(
    gaps: Sequence[Gap],
    specs: Iterable[Feature],
    arrays: Mapping[str, UnitArray],
    unit_rows: int,
    shard_units: int,
    codec: Codec,
    noted: Mapping[int, int],
) -> int:
    """Return the bytes that filling some gaps adds; with a codec that compresses, at most.

    A unit's chunk is written whole, however few rows it has, in the place of one that is there.

    Args:
        gaps: what is missing.
        specs: the arrays to be.
        arrays: those that are there, by path.
        unit_rows: rows of a unit.
        shard_units: chunks of a unit's file.
        codec: of the feature set.
        noted: bytes of the files of digests that are there, by unit.
    """
    stops = {gap.unit: gap.stop - gap.unit * unit_rows for gap in gaps}
    total = sum(map(file_bytes, stops.values())) - sum(noted.get(unit, 0) for unit in stops)
    for spec in specs:
        rows = {
            gap.unit: gap.stop - gap.unit * unit_rows for gap in gaps if spec.asked in gap.features
        }
        array = arrays.get(spec.path)
        there = array.chunk_sizes(rows) if array else {}
        for unit, count in rows.items():
            chunk = most_bytes(spec.row_bytes, count, unit_rows, spec.codec(codec), shard_units)
            record = PREFIX_BYTES if unit in there else _record_bytes(unit, count, chunk)
            total += chunk - there.get(unit, 0) + record
    return total


def growth_of_setups(
    resolved: Resolved,
    configs: Mapping[str, Config],
    setups: Setups | None,
    samples: SampleTable,
    borrowed: Banks,
) -> int:
    """Return the bytes of what will be frozen: configurations, heads and banks.

    Args:
        resolved: the settled options.
        configs: the configuration of each feature.
        setups: of the store, whose own are not written again; None where there is no store.
        samples: that banks will be made of.
        borrowed: banks of another store, by objective.
    """
    new = {
        feature: config
        for feature, config in configs.items()
        if setups is None or not setups.has(fingerprint(config))
    }
    total = 0
    for feature, config in new.items():
        name = objective_name(feature)
        bank = borrowed.get(name)
        if name in resolved.banks and bank is None:
            count = samples_of(resolved.banks[name], samples)
            bank = stand_in(resolved, name, count)
        files = encode_setup(config, *setup_parts(resolved, feature, bank))
        total += sum(map(len, files.values()))
    return total


def growth_of_listing(
    before: Store | None,
    after: Store,
    resolved: Resolved,
    configs: Mapping[str, Config],
    arrays: Collection[str],
    rows: int,
) -> int:
    """Return the bytes of new samples and new arrays' metadata, by making them in a scratch copy.

    Args:
        before: the store; None where there is none.
        after: a copy of its samples, to which those of the source were added; it gets the arrays.
        resolved: the settings, with the rows of a unit.
        configs: the configuration of each feature.
        arrays: paths of those that are there.
        rows: of the arrays.
    """
    known = _listing_bytes(before) if before else 0
    for spec in resolved.arrays:
        if spec.path not in arrays:
            resolved.create_array(after, spec, rows, configs[spec.asked])
    return _listing_bytes(after) - known + bytes_below(after.folder(FEATURES))


def bytes_below(folder: Folder) -> int:
    """Return the bytes of all files below a folder."""
    listing = folder.list()
    own = sum(folder.size(name) for name in listing.files)
    return own + sum(bytes_below(below) for below in folder.folders())


def _listing_bytes(store: Store) -> int:
    return store.folder().size(MANIFEST) + bytes_below(store.folder(SAMPLES))


def _record_bytes(unit: int, rows: int, chunk: int) -> int:
    record = Commit(unit, rows, chunk, DIGEST, DIGEST, DIGEST, 0, 0, 0, 0)
    return len(encode_commit(record))
