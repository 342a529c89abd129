"""The samples that prompts are made of, with their texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fungistore.errors import FungiError, ItemError
from fungistore.location import absolute_uri, shortened
from fungistore.machine.context import Context
from fungistore.modalities.reading import read_with_digest
from fungistore.quantities import counted
from fungistore.store.feature import is_derived
from fungistore.store.item_digests import FAILED, Digests, ItemDigests
from fungistore.store.samples import Rows
from fungistore.store.store import Store

TEXT = "text"  # the modality whose items go into a prompt
HELD_CHARACTERS = 32_000_000  # of texts: those of near rows are asked for again and again
CUT = " ..."


@dataclass(frozen=True)
class Item:
    """A sample as a prompt has it.

    Attributes:
        id: its id.
        label: name of its class, or None.
        text: what it says; None where it is no text.
        uri: where it is, the same below any root.
    """

    id: str
    label: str | None
    text: str | None
    uri: str

    def to_json(self) -> dict[str, str | None]:
        """Return a JSON-ready dictionary with the text, or with the uri of what has none."""
        content = {"uri": self.uri} if self.text is None else {"text": self.text}
        return {"id": self.id, "label": self.label} | content


class Items:
    """The samples of a store by their rows; the last ones are kept in memory.

    Args:
        store: the store.
        feature_set: whose features choose among them.
        most: characters of a text; what is longer is cut.
    """

    def __init__(self, store: Store, feature_set: str, most: int | None) -> None:
        self._store, self._most = store, most
        self._modality = store.modality
        self._held: dict[int, Item] = {}
        self._characters = 0
        self._cut: set[int] = set()
        self._digests = ItemDigests(store.backend, feature_set)
        arrays = store.arrays(feature_set)
        sizes = (one.unit_rows for path, one in arrays.items() if not is_derived(path))
        self._unit_rows = next(sizes, 1)
        self._noted: dict[int, Digests] = {}
        self._others: set[int] = set()

    @property
    def are_texts(self) -> bool:
        """Whether they have texts."""
        return self._modality.name == TEXT

    def say(self, context: Context) -> None:
        """Say which texts are not what they are taken for, as far as they were read."""
        if self._others:
            others = counted(len(self._others), "text is", "texts are")
            context.reporter.notice(
                f"{others} no longer what the features were made of: fungi extract --update makes "
                "these anew"
            )
        if self._cut:
            cut = counted(len(self._cut), "text was", "texts were")
            context.reporter.notice(f"{cut} cut to {self._most} characters")

    def take(self, rows: Rows) -> dict[int, Item]:
        """Return some rows' samples.

        Raises:
            FungiError: a text cannot be read again.
        """
        wanted = np.unique(rows).tolist()
        if self._characters > HELD_CHARACTERS:
            self._held, self._characters = {}, 0
        missing = [row for row in wanted if row not in self._held]
        for sample in self._store.samples.take(missing):
            label = sample["label"]
            text = self._text(sample["row"], sample["root"], sample["uri"])
            item = Item(
                sample["id"],
                None if label is None else self._store.manifest.labels[label],
                text,
                absolute_uri(sample["root"], sample["uri"]),
            )
            self._held[sample["row"]] = item
            self._characters += len(text or "") + len(item.uri)
        return {row: self._held[row] for row in wanted}

    def _text(self, row: int, root: str, uri: str) -> str | None:
        if not self.are_texts:
            return None
        try:
            item, digest = read_with_digest(self._modality, root, uri)
        except ItemError as error:
            raise FungiError(
                "a text cannot be read again",
                where=shortened(uri),
                found=error.what,
                hint="put it back; or run fungi extract --update, which makes it anew or drops it",
            ) from error
        if digest != self._made_of(row, digest):
            self._others.add(row)
        text = str(item)
        if self._most is None or len(text) <= self._most:
            return text
        self._cut.add(row)
        return text[: self._most] + CUT

    def _made_of(self, row: int, unknown: int) -> int:
        """Return the digest of what a row's features were made of."""
        unit, place = divmod(row, self._unit_rows)
        if unit not in self._noted:
            self._noted[unit] = self._digests.read(unit, self._unit_rows)
        noted = int(self._noted[unit][place])
        return noted if noted > FAILED else unknown
