"""`fungi train-loff`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fungistore.machine.context import Context

from .console import (
    ConsoleReporter,
    explains_errors,
    next_step,
    result,
    result_json,
    stop_on_signals,
)
from .evaluation import FeatureSet, Holdout, Json, StorePath

if TYPE_CHECKING:
    from fungistore.loff.train import TrainResult


def _option(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text)


@explains_errors
def train_loff(
    store: StorePath,
    head: Annotated[
        str | None,
        _option(
            "deit-s (the paper's cost), deit-ti, vit-xs, attn-pool or linear.  "
            "[default: deit-s on a GPU, vit-xs elsewhere]"
        ),
    ] = None,
    name: Annotated[str | None, _option("Name of the head.")] = None,
    feature_set: FeatureSet = None,
    augment: Annotated[
        str, _option("trivial, none, or operations such as hflip,rotate.")
    ] = "trivial",
    strength: Annotated[float, _option("Part of each operation's range.")] = 1.0,
    noise: Annotated[
        float | None, _option("Deviation of Gaussian noise.  [default: 0.1; 0 without augment]")
    ] = None,
    brightness: Annotated[float, _option("Channel brightness (FroFA), part of its range.")] = 0.0,
    mixup: Annotated[float, _option("Alpha of mixup.")] = 0.0,
    cutmix: Annotated[float, _option("Alpha of CutMix.")] = 0.0,
    interpolation: Annotated[str, _option("bilinear or nearest.")] = "bilinear",
    padding: Annotated[str, _option("zeros (the mean), border or reflection.")] = "zeros",
    pool: Annotated[int, _option("Average feature maps over N x N cells first.")] = 1,
    init: Annotated[str, _option("random, timm, or a .safetensors file.")] = "random",
    standardise: Annotated[bool, _option("Standardise channels first; the paper does not.")] = True,
    drop_path: Annotated[float, _option("Stochastic depth of the last block.")] = 0.1,
    dropout: Annotated[float, _option("Of embedded tokens.")] = 0.0,
    epochs: Annotated[int, _option("Passes over the training rows.")] = 30,
    batch_size: Annotated[int, _option("Rows of a step.")] = 64,
    lr: Annotated[float, _option("Highest learning rate of AdamW.")] = 5e-4,
    weight_decay: Annotated[float, _option("Of AdamW.")] = 0.05,
    warmup: Annotated[float, _option("Part of all steps in which the rate rises.")] = 0.1,
    label_smoothing: Annotated[float, _option("Part of the target for all classes.")] = 0.0,
    balanced: Annotated[bool, _option("Draw every class equally often.", "--balanced")] = False,
    patience: Annotated[
        int | None, _option("Stop after so many epochs without a better one.")
    ] = None,
    metric: Annotated[
        str,
        _option("Chooses the epoch: accuracy, mean_per_class_accuracy, roc_auc, quadratic_kappa."),
    ] = "accuracy",
    validation: Annotated[
        float, _option("Part of each training class, without a split val.")
    ] = 0.2,
    holdout: Holdout = None,
    seed: Annotated[int, _option("Of everything random, the holdout included.")] = 0,
    device: Annotated[str, _option("auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, _option("auto, float32 or bfloat16.")] = "auto",
    cache: Annotated[str, _option("Keep the rows in auto, ram, gpu, or none.")] = "auto",
    checkpoint_minutes: Annotated[float, _option("Longest time between checkpoints.")] = 10.0,
    restart: Annotated[bool, _option("Delete this head first.", "--restart")] = False,
    as_json: Json = False,
) -> None:
    """Train a compact classifier on cached patch tensors, with tensor augmentation (LOFF-TA).

    The backbone is not run. Killed and run again, it continues to the same weights.

    \b
    Examples:
      fungi train-loff pets.fungi --head vit-xs
      fungi train-loff pets.fungi --augment none --noise 0 --name plain --holdout 0.2 --seed 1
      fungi train-loff pets.fungi --head deit-s --augment hflip,rotate --brightness 0.1 --epochs 90
    """
    with stop_on_signals() as stop:  # the imports take seconds
        from fungistore.loff.augment import Augmentation
        from fungistore.loff.options import TrainOptions
        from fungistore.loff.train import train_loff as train

        if noise is None:
            noise = 0.0 if augment == "none" else 0.1
        # the library checks every value, so that its messages and ours are the same
        options = TrainOptions(
            head=head,
            name=name,
            feature_set=feature_set,
            augment=Augmentation(
                kind=augment,
                strength=strength,
                interpolation=cast("Any", interpolation),
                padding=cast("Any", padding),
                noise=noise,
                brightness=brightness,
                mixup=mixup,
                cutmix=cutmix,
            ),
            pool=pool,
            init=init,
            standardise=standardise,
            drop_path=drop_path,
            dropout=dropout,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            warmup=warmup,
            label_smoothing=label_smoothing,
            balanced=balanced,
            patience=patience,
            metric=cast("Any", metric),
            validation=validation,
            holdout=holdout,
            seed=seed,
            dtype=cast("Any", dtype),
            device=device,
            cache=cast("Any", cache),
            checkpoint_minutes=checkpoint_minutes,
        )
        done = train(store, options, restart=restart, context=Context(ConsoleReporter(), stop))
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "eval", "loff", str(store), "--head", done.name)


def _show(done: TrainResult) -> None:
    result(f"{done.feature_set}: head {done.name} ({done.head['kind']})")
    result(f"trained on {done.n_train} rows, {done.epochs} epochs, the best is {done.best_epoch}")
    scores = ", ".join(f"{name} {value:.4f}" for name, value in done.validation.items())
    result(f"validation on {done.n_validation} rows: {scores}")
    for reason, count in done.excluded.items():
        if count:
            result(f"excluded: {count} {reason}")
