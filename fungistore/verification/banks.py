"""Memory banks: the masks that their labels are of, and their indexes."""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.annotations.masks import open_masks
from fungistore.errors import FungiError
from fungistore.quantities import counted
from fungistore.segmentation.bank_masks import units_of_other_masks
from fungistore.segmentation.bank_record import RECORD, bank_folder, is_sound, read_bank_index
from fungistore.store.feature import BANK, BANK_LABELS
from fungistore.store.store import Store
from fungistore.verification.arrays import StoredArrays
from fungistore.verification.commands import command_for_array
from fungistore.verification.findings import Finding, Remedy


def check_banks(store: Store, arrays: StoredArrays) -> Iterator[Finding]:
    """Check each bank's index against its checksum, and the masks that its labels are of."""
    for stored in arrays.arrays:
        array = stored.array
        feature_set, _, path = array.name.partition("/")
        command = command_for_array(store, array.name, array.fingerprint)
        if path.startswith(BANK):
            yield from _check_index(store, feature_set, path.removeprefix(BANK), command)
        elif path.startswith(BANK_LABELS):
            try:
                changed = units_of_other_masks(open_masks(store), array.unit_rows, array.commits())
            except FungiError:  # records and masks have their own findings
                continue
            if changed:
                yield Finding(
                    "bank-stale",
                    f"features.zarr/{array.name}",
                    "labels of the masks that are there",
                    f"{counted(changed, 'unit')} of others",
                    "warning",
                    advice=f"make them once more: {command}",
                )


def _check_index(store: Store, feature_set: str, name: str, command: str) -> Iterator[Finding]:
    folder = bank_folder(store, feature_set, name)
    if not folder.has(RECORD):
        return
    record = read_bank_index(folder)
    if record is not None and (record.file is None or is_sound(folder, record.file)):
        return
    yield Finding(
        "index-damaged",
        folder.key,
        "the index of a bank as it was written",
        "its record cannot be read" if record is None else "another file, or none",
        remedy=Remedy("removed", remove=(folder.key_of(RECORD), folder.key), then=command),
    )
