"""`fungi train-loff`: a head trained on cached tensors; the run from top to bottom (LOFF-TA)."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fungistore.errors import UsageError
from fungistore.evaluation.task import say_split
from fungistore.fingerprint import Config, differences, fingerprint
from fungistore.loff.data import HeadData, open_head_data
from fungistore.loff.head import HeadSpec
from fungistore.loff.head_folder import head_run
from fungistore.loff.options import LINEAR, NONE, ON_CPUS, Augmentation, HeadKind, TrainOptions
from fungistore.loff.task import HeadTask
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.device import fast_dtype, resolve_device
from fungistore.names import refuse_odd_name
from fungistore.quantities import counted
from fungistore.store.contents import content_of, contents_in, made_anew
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.store import Store
from fungistore.training.loop import TrainingLoop
from fungistore.training.options import LATER, without_defaults
from fungistore.training.run_folder import RunFolder
from fungistore.training.run_loggers import Tail, refuse_unusable
from fungistore.training.settling import refuse_metric, refuse_other_settings

OUTSIDE = (  # change no weights
    *("name", "feature_set", "device", "cache", "checkpoint_minutes", "log_to"),
    "keep_removed",  # but the rows do, which have a digest
)
# settings that came later: left out where they change nothing, so that older heads still fit
OWN_LATER: Config = {"class_token": False}  # as LATER of all trainings
NOT_AUGMENTED = Augmentation(kind=NONE)
LATER_AUGMENT: Config = {"drop_tokens": 0.0, "raw": False}


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        name: of the head.
        head: what it is.
        epochs: that were run, in all.
        best_epoch: the one whose weights were kept, from 1.
        validation: its metrics on validation rows.
        split: where its rows, and those to test it on, come from.
        n_train, n_validation: rows.
        excluded: rows that were left out, by reason.
        images_per_second: of this run's training steps; 0 where nothing was to do.
        fingerprint: of the configuration.
        fingerprints: of the arrays it was made from.
    """

    store: str
    feature_set: str
    name: str
    head: Config
    epochs: int
    best_epoch: int
    validation: dict[str, float]
    split: Config
    n_train: int
    n_validation: int
    excluded: dict[str, int]
    images_per_second: float
    fingerprint: str
    fingerprints: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def train_loff(
    store: str | Path,
    options: TrainOptions = TrainOptions(),
    *,
    restart: bool = False,
    context: Context = DEFAULT,
) -> TrainResult:
    """Train a head on a store's tensors, continuing where it stopped.

    A run that was killed and started again gives the weights of one that was not, bit for bit on
    one kind of CPU. The best epoch, by the validation metric, is kept. Test rows are not read.

    Args:
        store: the store's directory.
        options: what to train, and how.
        restart: first delete the head of this name.
        context: its reporter is told what happens, its stop asked between steps; a checkpoint is
            written before the run ends.

    Raises:
        UsageError: features or labels are missing, or an option cannot be served.
        MismatchError: a head of this name was trained with other settings, or on other rows.
        StoppedError: `context` asked for it.
        FungiError: the loss is not finite; the last good checkpoint is kept.
    """
    opened = Store.open(store, keep_removed=options.keep_removed)
    refuse_unusable(options.log_to, opened.backend.directory(), opened.where)
    device = resolve_device(options.device)
    kind = head_kind(options, device)
    if kind == LINEAR:
        if options.augment not in (Augmentation(), NOT_AUGMENTED):
            context.reporter.notice(
                f"--head {LINEAR}: embeddings are not augmented, so those settings are left out"
            )
        options = replace(options, augment=NOT_AUGMENTED)
    data = open_head_data(
        opened,
        "embeddings" if kind == LINEAR else "patches",
        embeddings=options.class_token,
        feature_set=options.feature_set,
        pool=options.pool,
        holdout=options.holdout,
        group=options.group,
        validation=options.validation,
        seed=options.rows_seed,
    )
    refuse_metric(options, data.names, data.labels[data.split.validation])
    split = say_split(data.split, context)
    augment = options.augment.of_head(kind)
    name = head_name(options, kind)
    refuse_odd_name(name, "--name")
    run = head_run(opened, data.feature_set, name)
    if options.augment.kind is None and not restart and (stored := run.config()):
        augment = replace(options.augment, kind=stored["options"]["augment"]["kind"])
    options = replace(options, augment=augment)
    if data.is_sequence:
        options = _of_sequences(options, data, context)
    spec = HeadSpec(
        kind=kind,
        in_dim=data.width,
        classes=len(data.names),
        grid=data.grid,
        init=options.init,
        standardise=options.standardise,
        drop_path=options.drop_path,
        dropout=options.dropout,
        embedding_dim=data.embedding_dim,
    )
    thing = f"heads/{data.feature_set}/{name}"
    with disk_errors_explained(opened.where), opened.writing(thing):
        if restart:
            context.reporter.notice(f"--restart: deleting head {name!r}")
            run.remove()
        config = _settle(run, data, options, spec, device, context)
        key = fingerprint(config)
        progress = run.progress()
        run.remove_strays(progress)
        speed = 0.0
        with closing(Tail(options.log_to, run, f"{data.feature_set}/{name}", context)) as tail:
            tail.follow()  # what a kill kept from it, or a finished run that it never heard of
            if progress.done:
                epochs = counted(len(progress.history), "epoch is", "epochs are")
                context.reporter.notice(f"nothing to do: {epochs} done")
            else:
                task = HeadTask(data, options, spec, config["dtype"], device, context)
                speed = TrainingLoop(task, options, device, run, tail, context).run(progress)
                progress = run.progress()
    assert progress.best_epoch is not None  # an epoch has ended
    return TrainResult(
        store=opened.where,
        feature_set=data.feature_set,
        name=name,
        head=spec.to_config(),
        epochs=len(progress.history),
        best_epoch=progress.best_epoch + 1,
        validation=progress.history[progress.best_epoch]["validation"],
        split=split,
        n_train=len(data.split.train),
        n_validation=len(data.split.validation),
        excluded=data.excluded,
        images_per_second=speed,
        fingerprint=key,
        fingerprints={array.name: array.fingerprint for array in data.arrays},
    )


def head_kind(options: TrainOptions, device: torch.device) -> HeadKind:
    """Return which head is meant where none was named."""
    return options.head or ("deit-s" if device.type == "cuda" else ON_CPUS)


def head_name(options: TrainOptions, kind: HeadKind) -> str:
    """Return the name of a head of some kind that may have been given none."""
    augment = NOT_AUGMENTED if kind == LINEAR else options.augment.of_head(kind)
    return options.name or kind + ("-ta" if augment.kind != NONE else "")


def _of_sequences(options: TrainOptions, data: HeadData, context: Context) -> TrainOptions:
    """Return settings without what needs rows and columns of tokens, and say what is left out."""
    if options.init != "random":
        raise UsageError(
            "weights of image transformers have positions for a grid of tokens",
            where=f"--init {options.init}",
            expected="random, for a sequence",
            found=f"{data.array.name}, {counted(data.array.array.shape[1], 'token')} a row",
            hint="--init random; or import the tokens as a grid: fungi import --grid",
        )
    augment = options.augment.of_sequences()
    if augment.kind != options.augment.kind:
        context.reporter.notice(
            f"--augment {options.augment.kind}: tokens in sequence have no rows and columns, so "
            f"nothing is moved; noise of {augment.noise} is added"
        )
    return replace(options, augment=augment)


def _settle(
    run: RunFolder,
    data: HeadData,
    options: TrainOptions,
    spec: HeadSpec,
    device: torch.device,
    context: Context,
) -> Config:
    """Freeze everything that decides the weights, or refuse what differs from what was frozen."""
    stored = run.config()
    trained_on = np.concatenate([data.split.train, data.split.validation])
    contents = {array.name: asdict(content_of(array, trained_on)) for array in data.arrays}
    dtype: str = options.dtype
    if dtype == "auto":
        # on CPUs the small products of a head's backward pass are slower in bfloat16 (measured)
        is_fast = device.type == "cuda" and fast_dtype(device) == "bfloat16"
        dtype = stored["dtype"] if stored else "bfloat16" if is_fast else "float32"
    settings = {key: value for key, value in asdict(options).items() if key not in OUTSIDE}
    settings = without_defaults(settings, LATER | OWN_LATER)
    settings["augment"] = without_defaults(settings["augment"], LATER_AUGMENT)
    config: Config = {
        "schema": SCHEMA_VERSION[0],
        "options": settings | {"head": spec.kind, "dtype": dtype},
        "head": spec.to_config(),
        "dtype": dtype,
        "classes": list(data.names),
        "split": data.split.description,
        "rows": data.digest(),
        "inputs": {array.name: array.fingerprint for array in data.arrays},
        "contents": contents,
    }
    if stored is None:
        run.begin(config)
        return config
    anew = made_anew(data.arrays, contents_in(stored, run.folder.where()))
    frozen = {key: value for key, value in stored.items() if key != "contents"}
    asked = {key: value for key, value in config.items() if key != "contents"}
    fields = differences(frozen, asked, common=False)
    # contents know units: where test rows share them, it may be these that are others
    if anew and not fields and run.progress().done:
        context.reporter.notice(
            f"rows of {', '.join(anew)}, in units that the head was trained on, were made anew "
            "since: it is kept as it is; --restart trains it anew"
        )
        return stored
    fields |= {
        f"units of {name} with rows of the training": ("those of then", "made anew since")
        for name in anew
    }
    refuse_other_settings("head", run.folder.where(), fields)
    return stored
