"""`fungi train-loff`."""

from __future__ import annotations

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted

from ..console import next_step
from ..engines import chosen_engine
from ..flags import Json, Restart, StorePath, command
from ..output import result, result_json
from ..shell import operand
from ..tables import show_table


@command
def train_loff(
    *,
    store: StorePath,
    options: fungi.HeadsOptions,
    engine: fungi.EngineChoice,
    restart: Restart = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Train a compact classifier on cached patch tensors (LOFF-TA).

    Tensors are augmented, and the backbone is not run. Killed and run again, it continues to the
    same weights. The number of epochs is settled with the first run: the learning rate falls to
    zero over all of them. Each epoch is a line of log.jsonl; --log-to tells others of it, too.

    \b
    Examples:
      fungi train-loff pets.fungi --head vit-xs
      fungi train-loff pets.fungi --augment none --noise 0 \\
          --name plain --holdout 0.2 --seed 1
      fungi train-loff pets.fungi --head deit-s --epochs 90 \\
          --augment hflip,rotate --brightness 0.1
      fungi train-loff pets.fungi --head linear --seeds 5 --split-seed 0 \\
          --processes 2
    """
    workers = chosen_engine(engine, context, options.device)
    if options.seeds is not None:
        several = fungi.train_heads(
            store, options, restart=restart, engine=workers, context=context
        )
        result_json(several.to_json()) if as_json else _show_several(several)
        next_step("fungi", "eval", "loff", operand(store), "--head", f"{several.name}-s*")
        return
    if workers != fungi.Local():
        engine.refuse("engine", "several heads to divide: --seeds N", "one head")
    done = fungi.train_loff(store, options.of_one(), restart=restart, context=context)
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "eval", "loff", operand(store), "--head", done.name)


def _show(done: fungi.TrainResult) -> None:
    result(f"{done.feature_set}: head {done.name} ({done.head['kind']})")
    result(
        f"trained on {counted(done.n_train, 'row')}, {counted(done.epochs, 'epoch')}, "
        f"the best is {done.best_epoch}"
    )
    scores = ", ".join(f"{name} {value:.4f}" for name, value in done.validation.items())
    result(f"validation on {counted(done.n_validation, 'row')}: {scores}")
    for reason, count in done.excluded.items():
        if count:
            result(f"excluded: {count} {reason}")


def _show_several(done: fungi.HeadsResult) -> None:
    names = tuple(done.heads[0].validation)
    rows = [
        (one.name, str(one.best_epoch), *(f"{one.validation[name]:.4f}" for name in names))
        for one in done.heads
    ]
    show_table(("head", "best epoch", *names), rows, left=("head",))
    for name in names:
        deviation = done.validation.get(f"{name}_deviation")
        spread = "" if deviation is None else f" ± {deviation:.4f}"
        result(f"{name} {done.validation[name]:.4f}{spread}")
