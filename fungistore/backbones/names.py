"""The names of models as people have them, from model pages and other tools, and what they mean.

timm/NAME, hf-hub:timm/NAME           timm's NAME
hf-hub:ORG/NAME, local-dir:FOLDER     what timm loads from a hub, or a folder, by its config
https://huggingface.co/ORG/NAME       the same
dinov2_vits14, facebook/dinov2-small  timm's name of the same weights (`aliases.csv`)
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

ALIASES = Path(__file__).with_name("aliases.csv")
HUB, FOLDER = "hf-hub:", "local-dir:"
_HUB_SPELLED = re.compile(r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf[-_]hub:)(.+)")
_OF_TIMM = "timm/"


@cache
def _aliases() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return names of the same weights, and names of similar ones."""
    with ALIASES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    same = {row["name"].lower(): row["model"] for row in rows if row["same"] == "yes"}
    similar = {row["name"].lower(): row["model"] for row in rows if row["same"] == "no"}
    return MappingProxyType(same), MappingProxyType(similar)


def canonical(model: str) -> str:
    """Return the name that a model has here; one that is not known stays as it is."""
    name = model.strip()
    if spelled := _HUB_SPELLED.fullmatch(name):
        repository = re.sub(r"(/tree/main|/resolve/main)?/?$", "", spelled[1])
        if not repository.startswith(_OF_TIMM):
            return _aliases()[0].get(repository.lower(), HUB + repository)
        name = repository
    name = name.removeprefix(_OF_TIMM).removeprefix("timm:")
    return _aliases()[0].get(name.lower(), name)


def similar_model(model: str) -> str | None:
    """Return a model that a name may stand for, though not for certain."""
    return _aliases()[1].get(model.strip().lower())


def is_place(name: str) -> bool:
    """Whether a name says where a config and weights are, instead of what model they are."""
    return name.startswith((HUB, FOLDER))
