"""Tables of items as Hugging Face's datasets leaves them: Parquet with bytes, saved folders."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fungistore.errors import UsageError
from fungistore.location import Location, contained_uri, mark_of, path_to_uri
from fungistore.modalities.fetching import unreachable
from fungistore.modalities.modality import Modality
from fungistore.quantities import counted
from fungistore.remote.files import readable
from fungistore.remote.places import absolute, joined
from fungistore.remote.places import relative as relative_to
from fungistore.remote.urls import is_url
from fungistore.sources.cells import cell_column, cell_type
from fungistore.sources.headers import PATH
from fungistore.sources.hub_features import KEY, TableFeatures, features_of, is_item_struct
from fungistore.sources.labels import class_name, known_split, sort_label_names, split_name
from fungistore.sources.parquet_files import PARQUET, common_folder, may_have_tables, parquet_files
from fungistore.sources.sample import CellType, Sample

STATE, INFO, DICT = "state.json", "dataset_info.json", "dataset_dict.json"  # of saved folders
BATCH_ROWS = 16_384
Classes = Mapping[str, Sequence[str]]  # by column
_WORD = re.compile(r"[-_.]")


class HubParquetReader:
    """Parquet files whose cells are items: one, several by a pattern, or a folder of them."""

    summary = "Parquet files of image bytes or texts, as Hugging Face's datasets has them"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether there are such files, and the first of them has a column of items."""
        if os.path.isdir(path) and not may_have_tables(path):
            return False
        files = parquet_files(path)
        try:
            schema = pq.read_schema(readable(files[0])) if files else pa.schema([])
        except (OSError, pa.ArrowException) as error:
            if is_url(path) and isinstance(error, OSError) and error.errno is not None:
                raise
            return False
        if features_of(schema, modality) is None:
            return False
        return not _is_manifest(schema, modality) or _are_texts_of_the_hub(path, schema, modality)

    def open(self, path: str, modality: Modality) -> HubTables:
        """Return the source; see `HubTables`."""
        files = parquet_files(path)
        is_folder = not path.lower().endswith(PARQUET) if is_url(path) else os.path.isdir(path)
        root = common_folder(files) if files and not is_folder else path
        return HubTables(files, root, "parquet", modality)


class SavedDatasetReader:
    """A folder that `datasets.save_to_disk` has written: Arrow streams and their description."""

    summary = "a folder of datasets.save_to_disk"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether the folder describes itself so."""
        return os.path.isfile(os.path.join(path, STATE)) or os.path.isfile(os.path.join(path, DICT))

    def open(self, path: str, modality: Modality) -> HubTables:
        """Return the source; see `HubTables`."""
        splits: dict[str, str] = {"": path}
        if os.path.isfile(os.path.join(path, DICT)):
            names = _json(path, DICT).get("splits", [])
            splits = {name: os.path.join(path, name) for name in names}
        files: dict[str, str] = {}
        described: dict[str, Mapping[str, Any]] = {}
        for split, folder in splits.items():
            state = _json(folder, STATE)
            if state.get("_indices_data_files"):
                raise UsageError(
                    "the folder holds a choice of rows beside its rows",
                    where=folder,
                    hint="in Python: dataset.flatten_indices().save_to_disk(...)",
                )
            features = _json(folder, INFO).get("features")
            for one in state.get("_data_files", []):
                if "filename" not in one:
                    raise UsageError(
                        "a saved dataset names no file",
                        where=os.path.join(folder, STATE),
                        hint="save it again",
                    )
                file = os.path.join(folder, one["filename"])
                files[file] = split
                described |= {file: features} if features else {}
        return HubTables(list(files), path, "arrow", modality, splits=files, described=described)


@dataclass
class HubTables:
    """The rows of some files of one schema, in the order of the files.

    id: `<file>/<row>`, the file relative to root. A row that has no bytes and names a path is that
    file. Labels that are numbers of classes have the classes' names; other columns of text, numbers
    and truth values are kept. The split is a column's, or the file's: by the first word of its name
    (`train-00000-of-00002.parquet`), or by a folder above it.

    Args:
        files: their paths.
        root: what ids and uris are relative to.
        kind: of container, "parquet" or "arrow".
        modality: of the items.
        splits: of the files, where these are known.
        described: the columns of the files, as dataset_info.json has them, where that is known.

    Raises while iterating:
        UsageError: a file cannot be read, or has other columns than the first.
    """

    files: Sequence[str]
    root: str
    kind: str
    modality: Modality
    splits: Mapping[str, str] | None = None
    described: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = absolute(self.root)
        self.files = [absolute(file) for file in self.files]
        if self.splits is not None:
            self.splits = {absolute(file): one for file, one in self.splits.items()}
        self.described = {absolute(file): of for file, of in self.described.items()}
        if not self.files:
            raise UsageError("there are no files of rows", where=self.root)

    @cached_property
    def features(self) -> TableFeatures:
        """What the columns are."""
        schema = self._schema(self.files[0])
        found = features_of(schema, self.modality, self.described.get(self.files[0]))
        if found is None:
            raise UsageError(
                f"no column of the table holds {self.modality.items}",
                where=self.files[0],
                expected=_expected(self.modality),
                found=", ".join(f"{field.name}: {field.type}" for field in schema),
            )
        return found

    def columns(self) -> dict[str, CellType]:
        """Return the further columns, with their types."""
        return dict(self.features.others)

    def knows(self) -> frozenset[str]:
        """Return what the source knows of its samples."""
        known = {"label"} if self.features.label else set()
        has_splits = self.features.split or any(self._split_of(file) for file in self.files)
        return frozenset(known | ({"split"} if has_splits else set()))

    def remarks(self) -> list[str]:
        """Return what the columns were taken for."""
        label = self.features.label
        said = f"{counted(len(self.files), 'file')} of rows: {self.modality.items} are in column "
        said += f"{self.features.item!r}"
        others = [name for name in self.features.others if name in self.modality.columns]
        said += f", not {' or '.join(map(repr, others))}" if others else ""
        return [said + (f", labels in {label!r}" if label else ", no column of labels")]

    def label_names(self) -> list[str]:
        """Return the classes' own names and order, or the labels of all rows, sorted."""
        features = self.features
        if features.label is None:
            return []
        if features.names is not None:
            own = (self._classes_of(file)[features.label] for file in self.files)
            return list(dict.fromkeys(name for names in own for name in names))
        names: set[str] = set()
        for file in self.files:
            for batch in self._batches(file, [features.label]):
                names.update(filter(None, self._labels(batch, {})))
        return sort_label_names(names)

    def __iter__(self) -> Iterator[Sample]:
        features = self.features
        wanted = [name for name in (features.label, features.split, *features.others) if name]
        for file in self.files:
            relative = relative_to(file, self.root)
            with _explained(file):
                size_of_file, time_of_file = _measured("", file)
                mark = mark_of(file)
            own_split, classes = self._split_of(file), self._classes_of(file)
            first = 0
            for batch, paths in self._with_paths(file, wanted):
                labels = self._labels(batch, classes)
                splits = [own_split] * len(batch)
                if features.split:
                    cells = batch.column(features.split).cast(pa.string()).to_pylist()
                    splits = [split_name(cell) or own_split for cell in cells]
                others = [
                    self._cells(batch, name, kind, classes)
                    for name, kind in features.others.items()
                ]
                rows = list(zip(*others, strict=True)) if others else [()] * len(batch)
                for number in range(len(batch)):
                    row = first + number
                    sample_id = path_to_uri(f"{relative}/{row}")
                    cells = rows[number]
                    if paths is not None and (path := paths[number]):
                        place = os.path.join(os.path.dirname(relative), path)
                        uri, size, time = path_to_uri(place), *_measured(self.root, place)
                    else:
                        key = f"{features.item},{row}"
                        uri = contained_uri(relative, self.kind, key, size_of_file or 0, mark)
                        size, time = None, time_of_file
                    yield Sample(sample_id, uri, labels[number], splits[number], size, time, cells)
                first += len(batch)

    def _classes_of(self, file: str) -> Classes:
        """Return the class names by which a file counts, which may lack some that others have."""
        own = features_of(self._schema(file), self.modality, self.described.get(file))
        return {**self.features.class_names, **(own.class_names if own else {})}

    def _labels(self, batch: pa.RecordBatch, classes: Classes) -> list[str | None]:
        name = self.features.label
        if name is None:
            return [None] * len(batch)
        return [class_name(cell) if cell else None for cell in _named(batch, name, classes)]

    def _cells(
        self, batch: pa.RecordBatch, name: str, kind: CellType, classes: Classes
    ) -> list[Any]:
        if name in self.features.class_names:
            return _named(batch, name, classes)
        cells: list[Any] = cell_column(batch.column(name), kind).to_pylist()
        return cells

    def _split_of(self, file: str) -> str | None:
        if self.splits is not None:
            return split_name(self.splits[file])
        relative = Path(relative_to(file, self.root))
        first, *rest = _WORD.split(relative.name)
        words = (first, *relative.parts[:-1], *rest)
        return next((found for word in words if (found := known_split(word))), None)

    def _schema(self, file: str) -> pa.Schema:
        with _explained(file):
            if self.kind == "parquet":
                return pq.read_schema(readable(file))
            with pa.memory_map(file) as stream:
                return pa.ipc.open_stream(stream).schema

    def _batches(self, file: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of a file; without any, batches have their numbers of rows."""
        schema = self._schema(file)
        missing = [name for name in (*names, self.features.item) if name not in schema.names]
        if missing:
            raise UsageError(
                "a file has other columns than the first",
                where=file,
                expected=", ".join((*names, self.features.item)),
                found=", ".join(schema.names),
            )
        if (label := self.features.label) in names:
            usual, own = (one.field(label).type for one in (self._schema(self.files[0]), schema))
            if cell_type(own) != cell_type(usual) and not pa.types.is_null(own):
                raise UsageError(
                    "a file has labels of another type than the first",
                    where=f"{file}, column {label!r}",
                    expected=usual,
                    found=own,
                )
        with _explained(file):
            if self.kind == "parquet":
                with pq.ParquetFile(readable(file)) as opened:
                    yield from opened.iter_batches(BATCH_ROWS, columns=list(names))
                return
            with pa.memory_map(file) as stream:
                for batch in pa.ipc.open_stream(stream):
                    yield batch.select(list(names))

    def _with_paths(
        self, file: str, names: Sequence[str]
    ) -> Iterator[tuple[pa.RecordBatch, list[str | None] | None]]:
        """Yield batches, with the paths of rows whose items are in files of their own.

        Cells of bytes are read for it only where a file says, in its statistics, that some lack.
        """
        if not self.features.is_struct or not self._lacks_bytes(file):
            yield from ((batch, None) for batch in self._batches(file, names))
            return
        item = self.features.item
        for batch in self._batches(file, [*names, item]):
            cells = batch.column(item).to_pylist()
            paths = [None if cell is None or cell["bytes"] else cell.get("path") for cell in cells]
            yield batch, paths

    def _lacks_bytes(self, file: str) -> bool:
        if self.kind != "parquet":
            return False
        path = f"{self.features.item}.bytes"
        with pq.ParquetFile(readable(file)) as opened:
            metadata = opened.metadata
            for group in range(metadata.num_row_groups):
                row_group = metadata.row_group(group)
                columns = map(row_group.column, range(row_group.num_columns))
                found = next((one for one in columns if one.path_in_schema == path), None)
                statistics = None if found is None else found.statistics
                if statistics is not None and statistics.null_count:
                    return True
        return False


def _expected(modality: Modality) -> str:
    if modality.columns:
        return f"a column of text, `{'` or `'.join(modality.columns[:3])}`"
    return f"a column `{modality.name}` of bytes, or of structs with `bytes` and `path`"


def _named(batch: pa.RecordBatch, name: str, classes: Classes) -> list[str | None]:
    """Return a column as text, numbers of classes as the classes' names; -1 is no class."""
    names, cells = classes.get(name), batch.column(name).to_pylist()
    if names is None:
        return [None if cell is None else str(cell).strip() or None for cell in cells]
    return [None if cell is None or not 0 <= cell < len(names) else names[cell] for cell in cells]


@contextmanager
def _explained(file: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_url(file) and error.errno not in (None, errno.ENOENT):
            raise unreachable(error, "a file of rows") from error
        raise UsageError("a file of rows cannot be read", where=file, found=error) from error
    except pa.ArrowException as error:
        raise UsageError("a file of rows cannot be read", where=file, found=error) from error


def _is_manifest(schema: pa.Schema, modality: Modality) -> bool:
    """Whether a manifest's own rules read the table: it names items by paths, or as cells."""
    names = {name.strip().lower() for name in schema.names}
    if any(map(is_item_struct, schema.types)):  # of bytes and a path: a further one is a cell
        return False
    return PATH in names or bool(names & set(modality.columns))


def _are_texts_of_the_hub(path: str, schema: pa.Schema, modality: Modality) -> bool:
    """Whether columns of items beside others are described, or their files several."""
    names = {name.strip().lower() for name in schema.names}
    is_described = KEY in (schema.metadata or {})
    is_one = path.lower().endswith(PARQUET) if is_url(path) else os.path.isfile(path)
    is_several = not is_one and PATH not in names
    return bool(names & set(modality.columns)) and (is_described or is_several)


def _json(folder: str, name: str) -> dict[str, Any]:
    path = Path(folder, name)
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(
            "a saved dataset is not whole", where=path, found=error, hint="save it again"
        ) from error
    return document if isinstance(document, dict) else {}


def _measured(root: str, path: str) -> tuple[int | None, float | None]:
    return Location(joined(root, path)).measure()
