"""The columns of a table of items as Hugging Face's datasets describes them: which is what.

Features are in the schema's metadata of a Parquet file, or in dataset_info.json of a folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from fungistore.modalities.modality import Modality
from fungistore.sources.cells import cell_type
from fungistore.sources.labels import class_name
from fungistore.sources.sample import CellType

KEY = b"huggingface"  # of the schema's metadata
# Names of columns, the first that a table has is taken; plain ones before finer or coarser words.
_IMAGES = ("image", "img", "images", "picture", "photo", "jpg", "png", "webp", "image_bytes")
_SOUNDS = ("audio", "sound", "speech", "recording", "clip", "wav", "flac", "mp3", "audio_bytes")
ITEMS: Mapping[str, Sequence[str]] = MappingProxyType(
    {"image": (*_IMAGES, "bytes"), "audio": (*_SOUNDS, "bytes")}
)
LABELS = (
    *("label", "labels", "fine_label", "class", "category", "target", "class_label", "cls"),
    *("label_name", "class_name", "species", "breed", "y"),
)
# Images are told apart by the finer word (CIFAR-100), questions by the coarser (TREC).
LABELS_OF_TEXTS = (
    *("label", "labels", "coarse_label", "label-coarse"),
    *(name for name in LABELS[2:] if name != "fine_label"),
    *("sentiment", "emotion", "intent", "topic"),
)
SPLITS = ("split", "subset")


@dataclass(frozen=True)
class TableFeatures:
    """Which column is what.

    Attributes:
        item: of bytes or text, or of structs with `bytes` and `path`.
        is_struct: whether it is of structs.
        label: of names or numbers; None where there is none.
        names: of the classes, where labels are their numbers.
        split: of words, or None.
        others: further columns, with the types of their cells.
        class_names: of further columns that are numbers of classes.
    """

    item: str
    is_struct: bool
    label: str | None
    names: tuple[str, ...] | None
    split: str | None
    others: Mapping[str, CellType]
    class_names: Mapping[str, tuple[str, ...]]


def features_of(
    schema: pa.Schema, modality: Modality, described: Mapping[str, Any] | None = None
) -> TableFeatures | None:
    """Return what the columns of a table are; None where none holds items.

    Args:
        schema: of the table.
        modality: of the items.
        described: the features as dataset_info.json has them; None: the schema's metadata.
    """
    described = described if described is not None else _in_metadata(schema)
    found = _item_column(schema, modality, described)
    if found is None:
        return None
    item, is_struct = found
    classes = {
        name: tuple(map(class_name, feature["names"]))
        for name, feature in described.items()
        if isinstance(feature, Mapping) and isinstance(feature.get("names"), list)
    }
    by_plain = {name.strip().lower(): name for name in reversed(schema.names) if name != item}
    labels = LABELS if modality.name == "image" else LABELS_OF_TEXTS
    label = next((by_plain[name] for name in labels if name in by_plain), None)
    if label is None or cell_type(schema.field(label).type) not in ("int", "text", "bool"):
        label = next((name for name in classes if name in schema.names), None)
    split = next((by_plain[name] for name in SPLITS if name in by_plain), None)
    if split is not None and cell_type(schema.field(split).type) != "text":
        split = None
    others: dict[str, CellType] = {}
    for field in schema:
        kind = "text" if field.name in classes else cell_type(field.type)
        if field.name not in (item, label, split) and kind is not None:
            others[field.name] = kind
    return TableFeatures(item, is_struct, label, classes.get(label or ""), split, others, classes)


def _in_metadata(schema: pa.Schema) -> Mapping[str, Any]:
    try:
        document = json.loads((schema.metadata or {})[KEY])
        features = document["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _item_column(
    schema: pa.Schema, modality: Modality, described: Mapping[str, Any]
) -> tuple[str, bool] | None:
    kind = modality.name.capitalize()  # as features call it: Image, Audio
    own = [
        name
        for name, feature in described.items()
        if isinstance(feature, Mapping) and feature.get("_type") == kind and name in schema.names
    ]
    structs = [field.name for field in schema if is_item_struct(field.type)]
    plain = [field.name for field in schema if _is_bytes(field.type)]
    named = _first(ITEMS.get(modality.name, ()), structs)
    for name in (*own, *([named] if named else []), *structs[:1]):
        if name in structs:
            return name, True
        if name in plain:
            return name, False
    texts = [field.name for field in schema if _is_text(field.type)]
    usual = ITEMS.get(modality.name, modality.columns)
    name = _first(usual, plain if modality.name in ITEMS else [*plain, *texts])
    return None if name is None else (name, False)


def _first(names: Sequence[str], columns: Sequence[str]) -> str | None:
    by_plain = {column.strip().lower(): column for column in reversed(columns)}
    return next((by_plain[name] for name in names if name in by_plain), None)


def is_item_struct(kind: pa.DataType) -> bool:
    """Whether cells hold an item's bytes, and perhaps the path that they are from."""
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(number).name: kind.field(number).type for number in range(kind.num_fields)}
    return "bytes" in fields and _is_bytes(fields["bytes"])


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return cell_type(kind) == "text" and not pa.types.is_temporal(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )
