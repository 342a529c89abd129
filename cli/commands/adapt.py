"""`fungi adapt`."""

from __future__ import annotations

from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted, size

from ..console import SKIPPED_INPUTS, next_step
from ..flags import Json, Restart, StorePath, command
from ..output import result, result_json
from ..shell import operand


@command
def adapt(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Images with labels: a folder, a table, shards, or -."
        ),
    ],
    store: StorePath,
    options: fungi.AdaptOptions,
    restart: Restart = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Train a backbone on images: all of it, or VPT, SSF, LoRA.

    It is trained with a linear classifier on its embedding, on the rows that train-loff would train
    on; test rows are not read. fungi extract --adapter NAME then makes features with it. Killed and
    run again, it continues to the same weights.

    \b
    Examples:
      fungi adapt images/ pets.fungi --model deit_tiny_patch16_224 --epochs 1
      fungi adapt images/ pets.fungi --model deit_tiny_patch16_224 --epochs 1 \\
          --method vpt --set vpt.prompts=20 --name vpt-20
      fungi adapt images/ pets.fungi --model deit_tiny_patch16_224 --epochs 1 \\
          --method lora --auto-augment trivial --name lora --holdout 0.2 --seed 1

    Exit codes: as those of fungi extract; 3 where some images could not be read.
    """
    done = fungi.adapt(source, store, options, restart=restart, context=context)
    result_json(done.to_json()) if as_json else _show(done)
    given = {
        "--model": options.model,
        "--weights": options.weights,
        "--image-size": options.image_size,
        "--adapter": done.name,
    }
    words = [word for flag, value in given.items() if value for word in (flag, str(value))]
    next_step("fungi", "extract", operand(source), operand(store), *words)
    if done.failed:
        raise typer.Exit(SKIPPED_INPUTS)


def _show(done: fungi.AdaptResult) -> None:
    method = done.adapter["method"]
    result(f"adaptation {done.name}: {done.backbone['model']} by {method}, {done.trained} numbers")
    result(
        f"trained on {counted(done.n_train, 'image')}, {counted(done.epochs, 'epoch')}, "
        f"the best is {done.best_epoch}"
    )
    scores = ", ".join(f"{name} {value:.4f}" for name, value in done.validation.items())
    result(f"validation on {counted(done.n_validation, 'image')}: {scores}")
    memory = done.peak_gpu_bytes or done.peak_rss_bytes
    if done.images_per_second and memory:
        place = "of the GPU" if done.peak_gpu_bytes else "of memory"
        result(f"{done.images_per_second:.1f} images/s, at most {size(memory)} {place}")
    for reason, count in done.excluded.items():
        if count:
            result(f"excluded: {count} {reason}")
