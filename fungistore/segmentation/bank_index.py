"""The index of a bank: none where search is exact, or a faiss file of any kind, with its recall."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from fungistore.errors import StoreError
from fungistore.indexing.choose import available_memory, choose_factory, training_rows
from fungistore.indexing.record import StoredFile, crc32
from fungistore.indexing.reference import RECALL_QUERIES, Reference, settle_effort
from fungistore.indexing.vectors import VectorIndex
from fungistore.machine.context import Context
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.segmentation.bank_options import BankOptions
from fungistore.store.contents import digest_of
from fungistore.store.documents import encode_document, read_document, seal_is_broken, sealed
from fungistore.store.folder import Folder

if TYPE_CHECKING:
    from fungistore.segmentation.banks import Bank

BANKS, RECORD, FLAT = "banks", "bank.json", "Flat"
ADDED = 65_536  # vectors that are added at once, as float32
HINT = "the same fungi bank command makes it again"


@dataclass(frozen=True)
class BankIndex:
    """The contents of a bank's `bank.json`.

    Attributes:
        factory: faiss factory string.
        reason: why it was chosen.
        vectors: in it; their ids are places in the bank.
        contents: digest of the rows of the bank's arrays that it was made from.
        effort: the search parameter that was settled on.
        recall: recall@10; None where there is nothing to measure.
        file: of faiss; None where search is exact.
    """

    factory: str
    reason: str
    vectors: int
    contents: str
    effort: dict[str, int] = field(default_factory=dict)
    recall: float | None = 1.0
    file: StoredFile | None = None


ADAPTER = TypeAdapter(BankIndex)


def settle_index(bank: Bank, options: BankOptions, context: Context) -> BankIndex:
    """Build the index that is asked for, unless the one there is of the same patches."""
    folder, count, dim = _folder(bank), len(bank.vectors), bank.tokens.dim
    factory, reason = options.factory, "asked for"
    if options.chooses:
        choice = choose_factory(count, dim, available_memory())
        factory, reason = choice.factory, choice.reason
    stored = _read(folder)
    contents = digest_of(bank.contents)
    if stored is not None and (stored.factory, stored.contents, stored.vectors) == (
        factory,
        contents,
        count,
    ):
        if stored.file is None or _is_sound(folder, stored.file):
            return stored
        context.reporter.notice("the index is damaged: it is made again")
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
    made = BankIndex(factory, reason, count, contents, dict(effort), value, file)
    _publish(folder, made)
    return made


def open_bank_index(bank: Bank) -> VectorIndex | None:
    """Return the index of a bank, None where its search is exact.

    Raises:
        StoreError: it is damaged, or of other patches than the bank has now.
    """
    folder = _folder(bank)
    stored = _read(folder)
    if stored is None or stored.file is None:
        return None
    if stored.contents != digest_of(bank.contents) or stored.vectors != len(bank.vectors):
        raise StoreError(
            "the index of a bank is of other patches than the bank has now",
            where=folder.where(),
            hint=HINT,
        )
    path = folder.local_path(stored.file.name)
    if not _is_sound(folder, stored.file):
        raise StoreError("the index of a bank is damaged", where=path, hint=HINT)
    index = VectorIndex.read(path, "cosine")
    for value in stored.effort.values():
        index.set_effort(value)
    return index


def _folder(bank: Bank) -> Folder:
    return bank.tokens.store.folder(BANKS, bank.feature_set, bank.name)


def _read(folder: Folder) -> BankIndex | None:
    """Return what is there, None where nothing can be read: then it is made again."""
    if not folder.has(RECORD):
        return None
    try:
        document: dict[str, Any] = read_document(folder, RECORD, "the record of a bank's index")
        if seal_is_broken(document):
            return None
        return ADAPTER.validate_python({k: v for k, v in document.items() if k != "checksum"})
    except (StoreError, ValueError):
        return None


def _is_sound(folder: Folder, file: StoredFile) -> bool:
    return folder.has(file.name) and crc32(folder.local_path(file.name)) == file.crc32


def _publish(folder: Folder, made: BankIndex) -> None:
    folder.publish(RECORD, encode_document(sealed(asdict(made))))
    kept = {RECORD, made.file.name if made.file else RECORD}
    for name in folder.list().files:
        if name not in kept:
            folder.remove(name)
