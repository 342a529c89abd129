"""The index of a bank: none where search is exact, or a faiss file of any kind, with its recall."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from fungistore.errors import StoreError
from fungistore.indexing.choose import available_memory, choose_factory, training_rows
from fungistore.indexing.record import StoredFile
from fungistore.indexing.reference import RECALL_QUERIES, Reference, settle_effort
from fungistore.indexing.vectors import VectorIndex
from fungistore.machine.context import Context
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.segmentation.bank_options import BankOptions
from fungistore.segmentation.bank_record import (
    RECORD,
    BankIndex,
    bank_folder,
    is_sound,
    read_bank_index,
)
from fungistore.store.contents import digest_of
from fungistore.store.documents import encode_document, sealed
from fungistore.store.folder import Folder

if TYPE_CHECKING:
    from fungistore.segmentation.banks import Bank

FLAT = "Flat"
ADDED = 65_536  # vectors that are added at once, as float32
HINT = "the same fungi bank command makes it again"


def settle_index(bank: Bank, options: BankOptions, context: Context) -> BankIndex:
    """Build the index that is asked for, unless the one there is of the same patches."""
    folder, count, dim = _folder(bank), len(bank.vectors), bank.tokens.dim
    factory, reason = options.factory, "asked for"
    if options.chooses:
        choice = choose_factory(count, dim, available_memory())
        factory, reason = choice.factory, choice.reason
    stored = read_bank_index(folder)
    contents = digest_of(bank.contents)
    known = None if stored is None else (stored.factory, stored.contents, stored.vectors)
    if stored is not None and known == (factory, contents, count):
        if stored.file is None:
            return stored
        if not is_sound(folder, stored.file):
            context.reporter.notice("the index is damaged: it is made again")
        elif stored.target_recall == options.target_recall:
            return stored
    if factory == FLAT:
        made = BankIndex(FLAT, reason, count, contents)
        _publish(folder, made)
        return made
    context.reporter.notice(f"index {factory} of {counted(count, 'patch', 'patches')}: {reason}")
    index = VectorIndex.make(factory, dim, "cosine")
    chosen = Stream(options.seed, "bank", "index").choice(count, count)
    queries = np.sort(chosen[: min(RECALL_QUERIES, max(1, count // 4))])
    reference = Reference.of(queries, bank.vectors[queries].astype(np.float32))
    if index.needs_training:
        sample = np.sort(chosen[len(queries) :][: training_rows(count, dim)])
        index.train(bank.vectors[sample].astype(np.float32))
    context.reporter.begin("patches", count)
    for start in range(0, count, ADDED):
        context.stop_if_asked()
        block = bank.vectors[start : start + ADDED].astype(np.float32)
        places = np.arange(start, start + len(block))
        reference.update(block, places, "cosine")
        index.add(block, places)
        context.reporter.advance(len(block))
    context.reporter.end()
    effort, recall = settle_effort(index, reference, options.target_recall)
    name = f"vectors-{contents[:16]}.faiss"
    checksums: list[int] = []
    folder.publish_file(name, lambda path: checksums.append(index.write(path)))
    file = StoredFile(name, folder.size(name), checksums[0])
    value = None if recall is None else recall.value
    target = options.target_recall
    made = BankIndex(factory, reason, count, contents, dict(effort), value, file, target)
    _publish(folder, made)
    return made


def open_bank_index(bank: Bank) -> VectorIndex | None:
    """Return the index of a bank, None where its search is exact.

    Raises:
        StoreError: it is damaged, or of other patches than the bank has now.
    """
    folder = _folder(bank)
    stored = read_bank_index(folder)
    if stored is None or stored.file is None:
        return None
    if stored.contents != digest_of(bank.contents) or stored.vectors != len(bank.vectors):
        raise StoreError(
            "the index of a bank is of other patches than the bank has now",
            where=folder.where(),
            hint=HINT,
        )
    path = folder.local_path(stored.file.name)
    if not is_sound(folder, stored.file):
        raise StoreError("the index of a bank is damaged", where=path, hint=HINT)
    index = VectorIndex.read(path, "cosine")
    for value in stored.effort.values():
        index.set_effort(value)
    return index


def _folder(bank: Bank) -> Folder:
    return bank_folder(bank.tokens.store, bank.feature_set, bank.name)


def _publish(folder: Folder, made: BankIndex) -> None:
    folder.publish(RECORD, encode_document(sealed(asdict(made))))
    kept = {RECORD, made.file.name if made.file else RECORD}
    for name in folder.list().files:
        if name not in kept:
            folder.remove(name)
