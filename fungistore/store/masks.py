"""Segmentation masks in a store: the record, and files of the masks of 64 rows each.

Files are named by what is in them, so one that is replaced stands beside its successor until
`masks.json` names this: readers see the old masks or the new ones, and a kill leaves files that
nobody names. What the pixels mean is for `fungistore.annotations` to know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from fungistore.fingerprint import digest_bytes
from fungistore.names import is_file_name
from fungistore.store.disk_errors import damage_explained
from fungistore.store.documents import read_document, sealed
from fungistore.store.folder import Folder

ANNOTATIONS, MASKS, RECORD = "annotations", "masks", "masks.json"
BLOCK_ROWS = 64
BLOCK_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("uri", pa.string()),
        ("state", pa.string()),
        ("digest", pa.string()),
        ("problem", pa.string()),
        ("message", pa.string()),
        ("mask", pa.binary()),
        ("pixels", pa.list_(pa.int64())),
        ("void", pa.int64()),
    ]
)
DAMAGED = "the masks of a store are damaged"
HINT = "fungi verify --repair makes them again from their files"


@dataclass(frozen=True)
class MaskBlock:
    """One file of masks.

    Attributes:
        block: its number; rows 64 x block and up.
        file: its name.
        checksum: digest of its bytes.
        rows: which of the 64 rows have a mask: bit k, of a hexadecimal number, stands for the k-th.
        skipped: how many of the rows' masks could not be used.
    """

    block: int
    file: str
    checksum: str
    rows: str
    skipped: int

    @property
    def present(self) -> tuple[int, ...]:
        """The rows of the store that have a mask, ascending."""
        bits = int(self.rows, 16)
        first = self.block * BLOCK_ROWS
        return tuple(first + place for place in range(BLOCK_ROWS) if bits >> place & 1)


@dataclass(frozen=True)
class MasksRecord:
    """The contents of `annotations/masks.json`.

    Attributes:
        schema: version of the file: 1.
        classes: names of the classes by index.
        named: whether somebody gave these names; else they are numbers, up to the largest one met.
        void: the value of files that stands for "not judged"; None where none does.
        colours: [red, green, blue, index] where colours stand for classes; index 65535 is void.
        orientation: which pixels of an image the files belong to: upright, or as stored.
        folders: of masks that were added; later ones come first.
        blocks: the files.
        skipped: masks that could not be used, by reason.
        pixels: of each class, in all masks.
        void_pixels: that are not judged.
    """

    classes: tuple[str, ...]
    named: bool
    void: int | None
    colours: tuple[tuple[int, int, int, int], ...] = ()
    orientation: str = "upright"
    folders: tuple[str, ...] = ()
    blocks: tuple[MaskBlock, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    pixels: tuple[int, ...] = ()
    void_pixels: int = 0
    schema: int = 1

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        return json.dumps(sealed(asdict(self))).encode()

    @property
    def count(self) -> int:
        """How many masks there are."""
        return sum(int(block.rows, 16).bit_count() for block in self.blocks)


def masks_folder(store: Folder) -> Folder:
    """Return the folder of annotations, of the store's own one."""
    return store.at(ANNOTATIONS)


def read_masks_record(store: Folder) -> MasksRecord | None:
    """Return what masks a store has; None where it has none.

    Args:
        store: the store's folder.

    Raises:
        StoreError: the record is damaged.
    """
    folder = masks_folder(store)
    if not folder.has(RECORD):
        return None
    hint = "fungi annotate STORE --restart makes the masks anew from their files"
    document = read_document(folder, RECORD, DAMAGED, hint=hint)
    with damage_explained(DAMAGED, folder.where(RECORD), hint):
        known = {key: value for key, value in document.items() if key in _FIELDS}
        record: MasksRecord = _ADAPTER.validate_json(json.dumps(known), strict=True)
        for block in record.blocks:
            if not is_file_name(block.file) or int(block.rows, 16) >> BLOCK_ROWS:
                raise ValueError(f"a block at {block.file!r}")
    return record


def write_masks_record(store: Folder, record: MasksRecord) -> None:
    """Let what a record names count."""
    masks_folder(store).publish(RECORD, record.to_json())


def write_mask_block(store: Folder, number: int, table: pa.Table) -> MaskBlock:
    """Publish the masks of 64 rows; they count once the record names their file."""
    stream = BytesIO()
    pq.write_table(table, stream, compression="none", write_page_checksum=True)
    data = stream.getvalue()
    checksum = digest_bytes(data)
    name = f"{number:08d}-{checksum[:16]}.parquet"
    masks_folder(store).at(MASKS).publish(name, data)
    bits, skipped = 0, 0
    for row, problem in zip(table["row"].to_pylist(), table["problem"].to_pylist(), strict=True):
        skipped += problem is not None
        bits |= (problem is None) << row - number * BLOCK_ROWS
    return MaskBlock(number, name, checksum, f"{bits:x}", skipped)


def read_mask_block(store: Folder, block: MaskBlock, columns: Sequence[str]) -> pa.Table:
    """Return some columns of a file of masks.

    Raises:
        StoreError: it is missing or damaged.
    """
    folder = masks_folder(store).at(MASKS)
    with damage_explained(DAMAGED, folder.where(block.file), HINT):
        path = folder.local_path(block.file)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns=list(columns))


@dataclass(frozen=True)
class SkippedMask:
    """A mask that could not be used: which row's, where it is, and why, in a word and in words."""

    row: int
    uri: str
    problem: str
    message: str


def skipped_masks(store: Folder) -> Iterator[SkippedMask]:
    """Yield the masks that could not be used, by row.

    Raises:
        StoreError: they are damaged.
    """
    record = read_masks_record(store)
    for block in record.blocks if record else ():
        if block.skipped:
            names = ("row", "uri", "problem", "message")
            for row in read_mask_block(store, block, names).to_pylist():
                if row["problem"] is not None:
                    yield SkippedMask(row["row"], row["uri"] or "", row["problem"], row["message"])


_ADAPTER = TypeAdapter(MasksRecord)
_FIELDS = frozenset(MasksRecord.__dataclass_fields__)
