"""`fungi extract`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.headings import DATA, VIEWS
from fungistore.machine.context import Context
from fungistore.quantities import counted, duration, size

from ..console import SKIPPED_INPUTS, next_step
from ..flags import Json, Restart, StorePath, command
from ..output import note, result, result_json
from ..shell import command_line, operand

RETRY = "--retry-failed"


@command
def extract(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, table, .tar or .parquet shards, arrays, KIND:PATH, a URL, or -.",
        ),
    ],
    store: StorePath,
    options: fungi.ExtractOptions,
    negatives: Annotated[
        str | None,
        typer.Option(
            "--negatives",
            metavar="N",
            help="A short form of --set simclr.negatives=N.  [default: the paper's]",
            rich_help_panel=VIEWS,
        ),
    ] = None,
    engine: fungi.EngineChoice,
    profile: Annotated[
        bool, typer.Option("--profile", help="Tell at the end where the time went.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure and tell; write nothing.")
    ] = False,
    restart: Restart = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Make the rows of changed files anew; try failed inputs again.",
            rich_help_panel=DATA,
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option(RETRY, help="Try failed inputs again.", rich_help_panel=DATA)
    ] = False,
    as_json: Json = False,
    invocation: typer.Context,
    context: Context,
) -> None:
    """Write features of images, texts or sounds into a store.

    The same command again continues; a longer source adds its samples. One pass reads each
    once. Embeddings, patches and kl share one forward; of images dino costs 12 more, deepcluster
    10 and simclr 49, of texts simclr costs 12.

    \b
    Examples:
      fungi extract images/ pets.fungi --model deit_tiny_patch16_224
      fungi extract images/ pets.fungi --image-size 224 \\
          --model vit_small_patch14_dinov2.lvd142m
      fungi extract images/ pets.fungi --features kl,dino \\
          --model vit_base_patch16_224.dino
      fungi extract images/ layers.fungi --model deit_tiny_patch16_224 \\
          --target-layer blocks.11.attn.proj,blocks.11.mlp.fc2
      fungi extract reviews.csv reviews.fungi --features embeddings,kl,simclr \\
          --model text:google-bert/bert-base-uncased
      fungi extract images/ pets.fungi --features patches --pool 2 \\
          --model vit_base_patch14_dinov2.lvd142m --image-size 448
      find . -name '*.jpg' | fungi extract - pets.fungi --dry-run \\
          --model deit_tiny_patch16_224
      fungi extract images/ pets.fungi --config settings.toml \\
          --set kl.temperature=1
      fungi extract images/ pets.fungi --features kl --set kl.head_dim=0 \\
          --model deit_tiny_patch16_224 --feature-set no-head
      fungi extract images/ pets.fungi --gpus 0,1,2,3 \\
          --model vit_base_patch16_224.dino
      fungi extract images/ pets.fungi --engine ray --address auto \\
          --model vit_base_patch16_224.dino
      fungi extract images/ pets.fungi --model deit_tiny_patch16_224 --update
      fungi extract images/ try.fungi --model deit_tiny_patch16_224 \\
          --limit 256 --profile

    Exit codes: 0 done, 1 failed, or no row is usable, 2 usage, 3 done but some inputs, or masks,
    were skipped, or have features that are not finite or zero, 4 other settings than the feature
    set was made with, 5 damaged store, 75 stopped by SIGTERM (run again), 130 ^C.
    """
    if negatives is not None:
        options = options.with_settings(f"simclr.negatives={negatives}")
    if dry_run:
        quiet = Context(stop=context.stop)
        planned = fungi.estimate(
            source,
            store,
            options,
            restart=restart,
            update=update,
            retry_failed=retry_failed,
            context=quiet,
        )
        result_json(planned.to_json()) if as_json else _show_estimate(planned)
        return
    clock = fungi.Clock(fungi.wait_for_gpu) if profile else None
    done = fungi.extract(
        source,
        store,
        options,
        restart=restart,
        update=update,
        retry_failed=retry_failed,
        engine=fungi.choose_engine(
            fungi.Asked(engine, options.device, os.environ, context.reporter)
        ),
        context=replace(context, watch=clock) if clock else context,
    )
    times = clock.times() if clock else []
    if as_json:
        seconds = {time.stage: round(time.seconds, 4) for time in times}
        result_json(done.to_json() | ({"profile": seconds} if clock else {}))
    else:
        _show_result(done)
        _show_profile(times)
    _name_failures(done, invocation.find_root().obj)
    next_step("fungi", "status", operand(store))
    if done.unusable and done.unusable >= done.samples - done.failed:
        note("failed: no row is usable; the numbers of this model are not finite, or all zero")
        raise typer.Exit(1)
    if done.failed and done.failed >= done.samples:
        note(f"failed: no input could be read, of {done.samples}")
        if done.cause:
            note(f"  try: {done.cause}")
        raise typer.Exit(1)
    if done.failed or done.unusable or (done.masks and done.masks.skipped):
        raise typer.Exit(SKIPPED_INPUTS)


def _name_failures(done: fungi.ExtractResult, asked: Sequence[str]) -> None:
    """Name the first inputs that could not be read, where all are, and what tries them again."""
    if not done.failures:
        return
    note("failed inputs:" if done.failed > 1 else "failed input:")
    for one in done.failures:
        note(f"  {one.path}: {one.error}: {one.message}")
    store = operand(done.store)
    if more := done.failed - len(done.failures):
        note(f"  and {more} more: {command_line(['fungi', 'status', store, '--failures'])}")
    words = [word for word in asked if word not in ("--restart", "--update", RETRY)]
    end = words.index("--") if "--" in words else len(words)
    words[end:end] = [RETRY]
    stdin = " (with the same list on stdin)" if "-" in words else ""
    note(f"to try again what failed: {command_line(['fungi', *words])}{stdin}")


def _show_profile(times: list[fungi.StageTime]) -> None:
    for time in sorted(times, key=lambda time: time.beside):
        place = "beside" if time.beside else f"{time.share:6.1%}"
        result(f"{time.stage:<10} {time.seconds:9.2f} s  {place:>6}  {time.meaning}")


def _show_estimate(planned: fungi.Estimate) -> None:
    free = planned.free_bytes
    fits = "fits" if planned.fits else "DOES NOT FIT"
    room = "no limit" if free is None else f"{size(free)} free"
    fixed = f" as measured now (--unit-rows {planned.unit_rows} keeps to it)"
    measured = fixed if planned.unit_is_measured else ""
    most = "at most " if planned.bytes_are_most else ""
    gone = f" after {size(planned.deleted_bytes)} are deleted" if planned.deleted_bytes else ""
    for line in (
        f"found     {planned.understood}",
        f"{planned.understood.items:<9} {planned.images} to compute, of {planned.samples}",
        f"units     {planned.units} of {counted(planned.unit_rows, 'row')}{measured}, "
        f"batches of {planned.batch_size}",
        f"forwards  {planned.forwards_per_image} a sample",
        f"bytes     {most}{size(planned.bytes)} to write{gone}, {room} ({fits})",
        f"time      {' to '.join(dict.fromkeys(map(duration, planned.seconds)))}",
        *planned.remarks,
    ):
        result(line)


def _show_result(done: fungi.ExtractResult) -> None:
    items = fungi.Store.open(done.store).modality
    rate = f", {done.images_per_second:.1f} {items.items}/s" if done.images_computed else ""
    result(
        f"{done.store}: {counted(done.samples, items.item, items.items)}, "
        f"{', '.join(done.features)} "
        f"in {done.feature_set}; "
        f"{done.units_done}/{done.units_total} units, {counted(done.failed, 'failed input')}{rate}"
        + (f", {counted(done.unusable, 'unusable row')}" if done.unusable else "")
        + (f"; {done.worker} had {done.worker_units} of the units" if done.worker.count > 1 else "")
        + (f" by {counted(len(done.workers), 'worker')}" if done.workers and not done.nodes else "")
        + (f" on {counted(len(done.nodes), 'node')}" if done.nodes else "")
    )
    for node in done.nodes:
        rate = f"{node.images_per_second:.1f} {items.items}/s"
        result(f"  {node.node}: {counted(node.units, 'unit')}, {rate}")
