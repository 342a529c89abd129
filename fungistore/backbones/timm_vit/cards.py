"""Cards of timm's models, kept in a file for the timm that they were read off.

To build 2,900 models takes many minutes, and importing timm seconds. The list that comes with the
package is of the timm that constraints.txt pins; what another one has is kept in the user's cache
once it was asked for. A file counts for its very timm alone: its first line has the version, and
the digest of timm's modules of models.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile

from fungistore.backbones.families import BackboneCard
from fungistore.errors import FungiError
from fungistore.machine.user_cache import user_cache

SHIPPED = Path(__file__).with_name("cards.csv")
UNREADABLE = (OSError, ValueError, LookupError, FungiError)  # an odd file, or no home
COLUMNS = tuple(field.name for field in fields(BackboneCard) if field.name != "modality")

Cards = dict[str, BackboneCard | None]  # None: nobody has asked for the card yet


@cache
def stamp() -> str:
    """Return what tells this timm from others, without importing it."""
    spec = find_spec("timm")
    assert spec is not None
    assert spec.origin is not None
    digest = hashlib.sha256()
    for module in sorted((Path(spec.origin).parent / "models").glob("*.py")):
        digest.update(module.read_bytes())
    return f"timm {metadata.version('timm')} {digest.hexdigest()[:16]}"


def read_cards() -> Cards:
    """Return what a file says of this timm's models, by name; nothing where none is of it."""
    places: tuple[Callable[[], Path], ...] = (lambda: SHIPPED, _cached)
    for place in places:
        with suppress(*UNREADABLE), place().open(encoding="utf-8") as file:
            if file.readline().strip() == stamp():
                return {row["name"]: _card(row) for row in csv.DictReader(file)}
    return {}


def shipped_names() -> list[str]:
    """Return the names in the list of the package, whichever timm is here."""
    with SHIPPED.open(encoding="utf-8") as file:
        file.readline()
        return [row["name"] for row in csv.DictReader(file)]


def write_cards(cards: Mapping[str, BackboneCard | None], path: Path) -> None:
    """Write a file of cards of this timm, at once and whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(f"{stamp()}\n")
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(card) if card else {"name": name} for name, card in cards.items())
    os.replace(file.name, path)


def keep_cards(cards: Mapping[str, BackboneCard | None]) -> None:
    """Write the file in the user's cache; where that cannot be, the next one builds them again."""
    with suppress(OSError, FungiError):
        write_cards(cards, _cached())


def _cached() -> Path:
    ours = metadata.version("fungistore")
    return user_cache() / f"cards-{ours}-{stamp().replace(' ', '-')}.csv"


def _card(row: Mapping[str, str]) -> BackboneCard | None:
    if not row["parameters"]:
        return None
    return BackboneCard(
        name=row["name"],
        parameters=int(row["parameters"]),
        image_size=int(row["image_size"]),
        patch_size=int(row["patch_size"]),
        embedding_dim=int(row["embedding_dim"]),
        target_layer=row["target_layer"] or None,
    )
