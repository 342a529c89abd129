"""From a uri to an item, whatever its modality; whatever goes wrong is one error of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fungistore.errors import ItemError, UsageError
from fungistore.modalities.modality import Modality
from fungistore.sources.location import path_to_uri, shortened
from fungistore.sources.reading import open_item

# Enough of a decoder's own words for one line of a failure record.
_REASON_LENGTH = 120


def read_item(modality: Modality, root: str, uri: str) -> Any:
    """Return the item that a source of this root calls `uri`; safe to call from many threads.

    Raises:
        ItemError: the modality's own, for everything that does not end in an item: a missing,
            empty, truncated or foreign file, or anything that its decoder raises.
    """
    try:
        with open_item(root, uri) as stream:
            return modality.read(stream)
    except ItemError as error:
        if isinstance(error, modality.error):
            error.where = shortened(uri)
            raise
        raise modality.error(error.what, where=shortened(uri)) from error
    # Damaged files make decoders raise nearly anything, MemoryError and SyntaxError included.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        what = f"the {modality.item} cannot be decoded: {reason.splitlines()[0][:_REASON_LENGTH]}"
        raise modality.error(what, where=shortened(uri)) from error


def uri_of_file(text: str, item: str) -> str:
    """Return the absolute uri of the file that a user names, for modalities of files.

    Raises:
        UsageError: there is no such file; `item` is what it should hold, such as "image".
    """
    try:
        is_file = Path(text).is_file()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        is_file = False
    if not is_file:
        raise UsageError("there is no such file", where=text, hint=f"paths of {item} files")
    return path_to_uri(os.path.abspath(text))
