"""`fungi data`."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.errors import FungiError
from fungistore.quantities import size

from ..flags import Json, command
from ..output import result, result_json
from ..tables import show_table, show_text

COLUMNS = ("name", "images", "classes", "splits", "size", "metric", "paper")
PLACES = ("name", "what must be below PATH", "terms", "page")
NEEDS_SHOWN = 3


@command
def data(
    *,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of them: its layout and its command.")
    ] = None,
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="Count what of it is there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the data sets that are read as their archives unpack.

    With a NAME, tell what must be where; with a PATH too, whether it is. Nothing is downloaded.
    A set that is not as published exits 1.

    \b
    Examples:
      fungi data
      fungi data cub
      fungi data cub CUB_200_2011/
    """
    if name is None:
        sets = fungi.list_data_sets()
        if as_json:
            result_json({"data_sets": [one.to_json() for one in sets]})
        else:
            _list(sets)
    elif path is None:
        data_set = fungi.find_data_set(name)
        result_json(data_set.to_json()) if as_json else _describe(data_set)
    else:
        found = fungi.check_data_set(name, path)
        result_json(found.to_json()) if as_json else _tell(found)
        if not found.is_as_published:
            raise typer.Exit(FungiError.exit_code)


def _list(sets: list[fungi.DataSet]) -> None:
    rows = [
        (
            one.name,
            f"{one.images:,}",
            f"{one.classes:,}",
            " / ".join(f"{split} {count:,}" for split, count in one.splits.items()),
            size(one.bytes),
            one.metric,
            ", ".join(one.papers),
        )
        for one in sets
    ]
    show_table(
        COLUMNS, rows, left=("name", "splits", "metric", "paper"), folded=("splits", "metric")
    )
    show_text()
    places = [(one.name, _needs(one.layouts[0]), one.terms, one.page) for one in sets]
    show_table(PLACES, places, left=PLACES, folded=PLACES[1:])
    show_text()
    show_text("fungi data NAME says all that must be where; fungi data NAME PATH counts what is")


def _needs(layout: fungi.DataSetLayout) -> str:
    folder = f"{layout.inside[0]}/: " if layout.inside else ""
    needs = list(layout.needs)
    return folder + ", ".join(needs[:NEEDS_SHOWN]) + (", ..." if needs[NEEDS_SHOWN:] else "")


def _describe(data_set: fungi.DataSet) -> None:
    splits = ", ".join(f"{split} {count:,}" for split, count in data_set.splits.items())
    result(
        f"{data_set.title}: {data_set.images:,} {_items(data_set)}, {data_set.classes:,} classes"
    )
    result(f"splits  {splits}: {data_set.split_rule}")
    result(f"metric  {data_set.metric} ({', '.join(data_set.papers) or 'no paper of ours'})")
    result(f"size    about {size(data_set.bytes)}")
    result(f"terms   {data_set.terms}: {data_set.page}")
    for layout in data_set.layouts:
        result("")
        result(f"{layout.what}; PATH/ is this folder, or holds it:")
        folder = f"{layout.inside[0]}/" if layout.inside else ""
        width = max(map(len, layout.needs))
        for need, origin in layout.needs.items():
            result(f"  {folder}{need.ljust(width)}  {origin}")
    result("")
    result(f"fungi data {data_set.name} PATH          counts what is there")
    result(f"fungi extract {data_set.name}:PATH STORE --model MODEL")


def _items(data_set: fungi.DataSet) -> str:
    return fungi.find_modality(data_set.modality).items


def _tell(found: fungi.DataSetCheck) -> None:
    splits = ", ".join(f"{split} {count:,}" for split, count in found.splits.items())
    verdict = "" if found.differences else " as expected"
    items = _items(fungi.find_data_set(found.name))
    result(f"{found.images:,} {items}{verdict} in {found.root}")
    result(f"splits  {splits}")
    result(f"classes {found.classes:,}")
    for difference in found.differences:
        result(f"differs {difference}")
    for remark in found.remarks:
        result(f"note    {remark}")
    source = shlex.quote(f"{found.name}:{found.root}")
    result(f"fungi extract {source} {found.name}.fungi --model MODEL")
