"""What `bank.json` says of a bank's index; read without faiss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from fungistore.errors import StoreError
from fungistore.indexing.record import StoredFile, crc32
from fungistore.names import is_file_name
from fungistore.store.documents import read_document, seal_is_broken
from fungistore.store.folder import Folder
from fungistore.store.store import Store

BANKS, RECORD = "banks", "bank.json"


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
        target_recall: up to which the effort was raised; None: of a file without it.
    """

    factory: str
    reason: str
    vectors: int
    contents: str
    effort: dict[str, int] = field(default_factory=dict)
    recall: float | None = 1.0
    file: StoredFile | None = None
    target_recall: float | None = None


ADAPTER = TypeAdapter(BankIndex)


def bank_folder(store: Store, feature_set: str, name: str) -> Folder:
    """Return where a bank's index is."""
    return store.folder(BANKS, feature_set, name)


def read_bank_index(folder: Folder) -> BankIndex | None:
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


def is_sound(folder: Folder, file: StoredFile) -> bool:
    """Whether a file of an index is as it was written."""
    is_there = is_file_name(file.name) and folder.has(file.name)
    return is_there and crc32(folder.local_path(file.name)) == file.crc32
