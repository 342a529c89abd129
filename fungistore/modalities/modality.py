"""What a kind of samples is: which files and columns hold its items, and how one is read and shown.

A plug-in adds one as an entry point of the group "fungistore.modalities"; the class is made
without arguments, and imports no torch before it is asked for views.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, Protocol

from fungistore.errors import ItemError
from fungistore.registry import Registry

if TYPE_CHECKING:
    from fungistore.modalities.views import ViewRecipe

IMAGE = "image"  # what samples are where nobody says otherwise
AUDIO = "audio"

MODALITIES = Registry(
    "modality",
    "fungistore.modalities",
    {
        AUDIO: "fungistore.modalities.audio.recordings:Recordings",
        IMAGE: "fungistore.modalities.image.images:Images",
        "text": "fungistore.modalities.text.texts:Texts",
    },
)


class Modality(Protocol):
    """One kind of samples. Stateless: any number of threads share one, and processes get copies.

    One that can make something of an item that ends too early also has `rescue(stream)`, which
    returns the item as far as it goes (`--on-error truncated`). One whose items are text has
    `text_of(item)`, which returns it: answers of a search show it beside their ids.

    One whose items last has `has_spans = True`, and `read` and `rescue` take a keyword argument
    `span` (`fungistore.location.Span`): a manifest's columns `start` and `end`, in seconds.
    """

    @property
    def name(self) -> str:
        """Its name in the registry, in stores and in messages: "image"."""

    @property
    def item(self) -> str:
        """One of its items, as messages call it: "image", "recording"."""

    @property
    def items(self) -> str:
        """Several of them: "images"."""

    @property
    def error(self) -> type[ItemError]:
        """What an item that cannot be read is recorded as."""

    @property
    def suffixes(self) -> frozenset[str]:
        """The ends of names of files that hold an item: lower case, without the dot."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a manifest whose cells are items themselves; the first one there counts.

        `path` is none of them: it names a file, whatever the modality.
        """

    def read(self, stream: IO[bytes]) -> Any:
        """Return the item that some bytes are: of a file, a member of a shard, or a cell.

        Raises:
            ItemError: they are none. Any other exception is reported as one, too.
        """

    def blank(self) -> Any:
        """Return what stands in for an item that cannot be read, and is then discarded."""

    def recipe(self, request: object, encoder: Any, view_size: str | int) -> ViewRecipe | None:
        """Return the views that an objective's request becomes; None where it has no such views.

        Args:
            request: plain data, as in `fungistore.modalities.requests`, or a plug-in's own.
            encoder: whose inputs the views are to be.
            view_size: "model", "native", or a size, as `--view-size` has it.
        """

    def query(self, text: str) -> str:
        """Return the uri, the same below any root, of the item that a user means by a text.

        `fungistore.modalities.reading.uri_of_file` for paths, `inline_uri` for the text itself.

        Raises:
            UsageError: it means none.
        """

    def show(self, item: Any, caption: str) -> str:
        """Return HTML that shows an item in a few hundred pixels; `caption` is plain text."""


def find_modality(name: str) -> Modality:
    """Return the modality of that name.

    Raises:
        UsageError: there is none here: the package that adds it is not installed.
    """
    modality: Modality = MODALITIES.choose(name, "modality")()
    return modality


def has_spans(modality: Modality) -> bool:
    """Whether a part of an item, from one second to another, is an item as well."""
    return bool(getattr(modality, "has_spans", False))


def with_article(noun: str) -> str:
    """Return "an image" for "image", as far as a rule can tell."""
    return f"{'an' if noun[:1] in tuple('aeiou') else 'a'} {noun}"
