"""`fungi train-loff`."""

from __future__ import annotations

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted

from ..console import next_step
from ..flags import Json, Restart, StorePath, command
from ..output import result, result_json
from ..shell import operand


@command
def train_loff(
    *,
    store: StorePath,
    options: fungi.TrainOptions,
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
    """
    done = fungi.train_loff(store, options, restart=restart, context=context)
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
