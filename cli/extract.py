"""`fungi extract`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fungistore.machine.context import Context

from .console import (
    SKIPPED_INPUTS,
    ConsoleReporter,
    duration,
    explains_errors,
    next_step,
    result,
    result_json,
    size,
    stop_on_signals,
)
from .evaluation import words

if TYPE_CHECKING:
    from fungistore.extraction.measure import Estimate
    from fungistore.extraction.result import ExtractResult
    from fungistore.machine.stopwatch import StageTime


def _option(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text)


@explains_errors
def extract(
    source: Annotated[
        str,
        typer.Argument(help="A folder, .csv or .parquet manifest, WebDataset .tar shards, or -."),
    ],
    store: Annotated[Path, typer.Argument(help="The store's directory, such as pets.fungi.")],
    model: Annotated[str | None, _option("timm model; see `fungi models`.")] = None,
    weights: Annotated[Path | None, _option("A weights file instead of timm's download.")] = None,
    image_size: Annotated[int | None, _option("Side of the model's input in pixels.")] = None,
    features: Annotated[
        str | None, _option("Of embeddings,kl,dino,simclr,patches.  [default: embeddings,kl]")
    ] = None,
    feature_set: Annotated[str | None, _option("Name in the store.  [default: the model]")] = None,
    device: Annotated[str | None, _option("auto, cpu, cuda, cuda:N or mps.")] = None,
    dtype: Annotated[
        str | None, _option("auto, float32, bfloat16, float16 or int8, up to the target layer.")
    ] = None,
    compile_trunk: Annotated[
        bool | None, _option("Compile the model; pays where a run takes long.", "--compile")
    ] = None,
    storage_dtype: Annotated[
        str | None, _option("float16 or float32, for vectors.  [default: float16]")
    ] = None,
    batch_size: Annotated[int | None, _option("Images, or views, computed together.")] = None,
    workers: Annotated[int | None, _option("Threads, or processes, that decode images.")] = None,
    decode_in: Annotated[
        str | None, _option("auto, threads or processes; auto: processes for a GPU, many images.")
    ] = None,
    seed: Annotated[
        int | None, _option("Of heads, projection, negatives and views.  [default: 42]")
    ] = None,
    view_size: Annotated[
        str | None, _option("model (the paper), native (fewer pixels, faster), or a side.")
    ] = None,
    negatives: Annotated[
        int | None, _option("Images that SimCLR's negatives are made from.  [default: 256]")
    ] = None,
    pool: Annotated[int | None, _option("Average patch tensors over N x N cells.")] = None,
    projection: Annotated[
        str | None, _option("binary, gaussian or sparse.  [default: binary]")
    ] = None,
    projection_dim: Annotated[
        int | None, _option("Width of a gradient feature.  [default: the blocks' width]")
    ] = None,
    projection_memory: Annotated[
        float | None, _option("GiB that the projection may occupy.  [default: 4]")
    ] = None,
    target_layer: Annotated[
        str | None, _option("Linear layer to differentiate.  [default: the last attn.proj]")
    ] = None,
    codec: Annotated[
        str | None, _option("none (memory-mappable), zstd (lossless), bitround (lossy patches).")
    ] = None,
    unit_rows: Annotated[
        int | None, _option("Rows that are committed at once, a power of two.")
    ] = None,
    limit: Annotated[int | None, _option("Only the first N images; a later run goes on.")] = None,
    on_error: Annotated[
        str | None, _option("Unreadable images: skip (and list) or fail.  [default: skip]")
    ] = None,
    setting: Annotated[
        list[str] | None,
        _option("A parameter of an objective, such as dino.local_crops=6.", "--set"),
    ] = None,
    config: Annotated[
        Path | None, _option("TOML or JSON file of these settings; flags win.")
    ] = None,
    profile: Annotated[bool, _option("Tell at the end where the time went.", "--profile")] = False,
    dry_run: Annotated[bool, _option("Measure and tell; write nothing.", "--dry-run")] = False,
    restart: Annotated[bool, _option("Delete the feature set first.", "--restart")] = False,
    update: Annotated[
        bool, _option("Make the rows of changed files anew; try failed inputs again.", "--update")
    ] = False,
    retry_failed: Annotated[bool, _option("Try failed inputs again.", "--retry-failed")] = False,
    worker_id: Annotated[
        int | None, _option("This process's number, from 0, of several on one store.")
    ] = None,
    num_workers: Annotated[
        int | None, _option("How many processes divide the units.  [default: from the scheduler]")
    ] = None,
    gpus: Annotated[
        str | None, _option("Run one worker on each of these CUDA devices, such as 0,1,2,3.")
    ] = None,
    processes: Annotated[
        int | None, _option("Run so many workers on this machine's --device.")
    ] = None,
    as_json: Annotated[bool, _option("Print one JSON object on stdout.", "--json")] = False,
) -> None:
    """Write features of images into a store; run it again to continue, or to add images.

    One pass decodes each image once. Embeddings, patches and kl share one forward; dino costs 12
    forwards an image and simclr 49.

    \b
    Examples:
      fungi extract images/ pets.fungi --model vit_small_patch14_dinov2.lvd142m --image-size 224
      fungi extract images/ pets.fungi --model vit_base_patch16_224.dino --features kl,dino
      fungi extract images/ pets.fungi --model vit_base_patch14_dinov2.lvd142m --features patches \\
          --image-size 448 --pool 2
      find . -name '*.jpg' | fungi extract - pets.fungi --model deit_tiny_patch16_224 --dry-run
      fungi extract images/ pets.fungi --config settings.toml --set kl.temperature=1
      fungi extract images/ pets.fungi --model vit_base_patch16_224.dino --gpus 0,1,2,3
      fungi extract images/ pets.fungi --model vit_base_patch16_224.dino --update
      fungi extract images/ try.fungi --model deit_tiny_patch16_224 --limit 256 --profile

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 3 done but some inputs were skipped, 4 other settings
    than the feature set was made with, 5 damaged store, 75 stopped by SIGTERM (run again), 130 ^C.
    """
    flags: dict[str, Any] = {
        "model": model,
        "weights": None if weights is None else str(weights.absolute()),
        "image_size": image_size,
        "features": None
        if features is None
        else tuple(part.strip() for part in features.split(",")),
        "feature_set": feature_set,
        "device": device,
        "dtype": dtype,
        "compile": compile_trunk,
        "storage_dtype": storage_dtype,
        "batch_size": batch_size,
        "workers": workers,
        "decode_in": decode_in,
        "seed": seed,
        "view_size": int(view_size) if view_size and view_size.isdecimal() else view_size,
        "pool": pool,
        "projection": projection,
        "projection_dim": projection_dim,
        "projection_memory": projection_memory,
        "target_layer": target_layer,
        "codec": codec,
        "unit_rows": unit_rows,
        "limit": limit,
        "on_error": on_error,
    }
    settings = list(setting or [])
    if negatives is not None:
        settings.append(f"simclr.negatives={negatives}")
    with stop_on_signals() as stop:  # from the start: importing and loading take seconds
        from fungistore.engines.choose import choose_engine
        from fungistore.extraction.measure import estimate
        from fungistore.extraction.options import ExtractOptions, read_config, with_settings
        from fungistore.extraction.stage import extract as run
        from fungistore.machine.device import wait_for_gpu
        from fungistore.machine.stopwatch import UNWATCHED, Clock

        settled = read_config(config) if config is not None else {}
        settled = {key.replace("-", "_"): value for key, value in settled.items()}
        settled |= {key: value for key, value in flags.items() if value is not None}
        options = ExtractOptions.from_config(with_settings(settled, settings))
        if dry_run:
            planned = estimate(source, store, options, restart=restart, context=Context(stop=stop))
            result_json(planned.to_json()) if as_json else _show_estimate(planned)
            return
        reporter = ConsoleReporter()
        clock = Clock(wait_for_gpu) if profile else None
        done = run(
            source,
            store,
            options,
            restart=restart,
            update=update,
            retry_failed=retry_failed,
            engine=choose_engine(
                options.device,
                gpus=words(gpus),
                processes=processes,
                worker_id=worker_id,
                num_workers=num_workers,
                environment=os.environ,
                reporter=reporter,
            ),
            context=Context(reporter, stop, clock or UNWATCHED),
        )
    times = clock.times() if clock else []
    if as_json:
        seconds = {time.stage: round(time.seconds, 4) for time in times}
        result_json(done.to_json() | ({"profile": seconds} if clock else {}))
    else:
        _show_result(done)
        _show_profile(times)
    next_step("fungi", "status", str(store))
    if done.failed:
        raise typer.Exit(SKIPPED_INPUTS)


def _show_profile(times: list[StageTime]) -> None:
    for time in sorted(times, key=lambda time: time.beside):
        place = "beside" if time.beside else f"{time.share:6.1%}"
        result(f"{time.stage:<10} {time.seconds:9.2f} s  {place:>6}  {time.meaning}")


def _show_estimate(planned: Estimate) -> None:
    short, long = planned.seconds
    free = planned.free_bytes
    fits = "fits" if free is None or planned.bytes <= free else "DOES NOT FIT"
    room = "" if free is None else f", {size(free)} free ({fits})"
    for line in (
        f"images    {planned.images} to compute, of {planned.samples}",
        f"units     {planned.units} of {planned.unit_rows} rows, batches of {planned.batch_size}",
        f"forwards  {planned.forwards_per_image} an image",
        f"bytes     {size(planned.bytes)}{room}",
        f"time      {duration(short)} to {duration(long)}",
    ):
        result(line)


def _show_result(done: ExtractResult) -> None:
    rate = f", {done.images_per_second:.1f} images/s" if done.images_computed else ""
    result(
        f"{done.store}: {done.samples} images, {', '.join(done.features)} in {done.feature_set}; "
        f"{done.units_done}/{done.units_total} units, {done.failed} failed inputs{rate}"
        + (f"; {done.worker} had {done.worker_units} of the units" if done.worker.count > 1 else "")
        + (f" by {len(done.workers)} workers" if done.workers else "")
    )
