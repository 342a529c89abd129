"""The modality of texts: strings, from files of their own, cells of tables and lines."""

from __future__ import annotations

import codecs
import os
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar
from unicodedata import category

from fungistore.errors import TextError, UsageError
from fungistore.location import inline_uri
from fungistore.modalities.reading import uri_of_file
from fungistore.names import suffix_of
from fungistore.text import beginning, encoding_of

if TYPE_CHECKING:
    from fungistore.modalities.views import ViewRecipe

MOST_BYTES = 1 << 20  # of a text, whose end is left out: no encoder reads as much
SHOWN = 400  # characters on a page
_MOST_NULS = 1 / 3  # of a text, as UTF-16 without a mark has them


class Texts:
    """Texts; an item is a `str`, without the white space around it, whose lines end in "\\n"."""

    name: ClassVar[str] = "text"
    item: ClassVar[str] = "text"
    items: ClassVar[str] = "texts"
    error: ClassVar[type[TextError]] = TextError
    suffixes: ClassVar[frozenset[str]] = frozenset({"txt"})
    columns: ClassVar[tuple[str, ...]] = (
        *("text", "sentence", "content", "document", "review", "body", "sentences", "texts"),
        *("tweet", "comment", "message", "question", "utterance", "query", "passage", "abstract"),
        *("review_text", "review_body", "comment_text", "tweet_text", "headline", "description"),
    )

    def read(self, stream: IO[bytes]) -> str:
        """Return the text that some bytes are: UTF-8, or with its mark any UTF.

        What is beyond MOST_BYTES is left out, cut between two characters.

        Raises:
            TextError: they are in another encoding, or there is nothing to read in them.
        """
        data = stream.read(MOST_BYTES + 1)
        encoding, mark = encoding_of(data)
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            text = decoder.decode(data[mark:MOST_BYTES], final=len(data) <= MOST_BYTES)
        except UnicodeDecodeError as error:
            place = mark + error.start
            raise TextError(
                f"this is no text in UTF-8: byte 0x{data[place]:02x} at {place}",
                hint="convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
            ) from error
        if text.count("\0") > len(text) * _MOST_NULS:
            raise TextError(
                f"this is no text in UTF-8: {text.count(chr(0))} of {len(text)} bytes are NUL",
                hint="if it is UTF-16: iconv -f UTF-16LE -t UTF-8 OLD > NEW",
            )
        text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
        if not any(map(_is_visible, text)):
            raise TextError("there is nothing in it")
        return text

    def blank(self) -> str:
        """Return one letter."""
        return "a"

    def recipe(self, request: object, encoder: Any, view_size: str | int) -> ViewRecipe | None:
        """Return the views that a request becomes; see `text_recipe`."""
        from fungistore.modalities.text.recipes import text_recipe

        return text_recipe(request, encoder)

    def query(self, text: str) -> str:
        """Return the uri of the file at a path, else of the text itself.

        Raises:
            UsageError: it is empty, or a folder, or what can only be the path of a file, and there
                is none.
        """
        if _is_there(text) or _must_be_path(text, self.suffixes):
            try:
                return uri_of_file(text, self.item)
            except UsageError as error:
                error.hint = "a path of a text file; if this is the text itself: --text"
                raise
        if not text.strip():
            raise UsageError("the text is empty", expected="a sentence, or the path of a text file")
        return inline_uri(text.encode("utf-8", "replace"))

    def text_of(self, item: str) -> str:
        """Return the text."""
        return item

    def show(self, item: str, caption: str) -> str:
        """Return the beginning of a text, with what steers the reader's screen spelled out."""
        return f'<p class="text"><bdi>{escape(beginning(item, SHOWN))}</bdi></p>'


def _is_there(text: str) -> bool:
    """Whether a text is the path of a file, or of a folder, if it is spelled as one."""
    try:
        return Path(text).is_file() or (os.sep in text and Path(text).is_dir())
    except (OSError, ValueError):  # a sentence is longer than a name may be; a NUL in it
        return False


def _must_be_path(text: str, suffixes: Collection[str]) -> bool:
    """Whether one word is spelled as a path of a file: a/b.jpg, c.txt."""
    suffix = suffix_of(text)
    return len(text.split()) == 1 and (suffix in suffixes or (os.sep in text and suffix != ""))


def _is_visible(character: str) -> bool:
    """Whether something is there to read: no blank, and nothing that only steers what is."""
    return not (character.isspace() or category(character) in ("Cc", "Cf"))
