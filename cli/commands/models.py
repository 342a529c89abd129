"""`fungi models`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.errors import UsageError

from ..flags import Json, command
from ..output import result, result_json


@command
def models(
    *,
    pattern: Annotated[str, typer.Argument(help="A shell pattern, or a part of the name.")] = "*",
    as_json: Json = False,
) -> None:
    """List backbones: parameters, image size, width, target layer.

    Nothing is downloaded. A name's part after the dot is the tag of its pretrained weights.

    \b
    Examples:
      fungi models dinov2
      fungi models 'vit_*_clip_*openai'
    """
    names = fungi.find_backbones(pattern)
    if not names:
        raise UsageError("no model matches", where=pattern, hint="fungi models '*vit*'")
    if as_json:
        result_json({"models": [asdict(card) for card in fungi.describe_backbones(names)]})
        return
    width = max(map(len, names))
    header = ("model".ljust(width), "parameters", "image", "patch", "embedding", "target layer")
    result("{}  {:>10}  {:>5}  {:>5}  {:>9}  {}".format(*header))
    for card in fungi.describe_backbones(names):
        result(
            f"{card.name.ljust(width)}  {card.parameters / 1e6:>8.1f} M  "
            f"{card.image_size or '-':>5}  {card.patch_size or '-':>5}  "
            f"{card.embedding_dim:>9}  {card.target_layer or '-'}"
        )
