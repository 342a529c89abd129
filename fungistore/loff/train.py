"""`fungi train-loff`: a head trained on cached tensors; the run from top to bottom (LOFF-TA)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fungistore.errors import FungiError, MismatchError
from fungistore.extraction.resolve import fast_dtype, resolve_device
from fungistore.fingerprint import Config, describe, differences, fingerprint
from fungistore.loff.augment import NONE, Augmentation, augment, draw
from fungistore.loff.cache import CacheChoice
from fungistore.loff.checkpoint import (
    Progress,
    RunDirectory,
    Tensors,
    below,
    flatten_optimiser,
    restore_optimiser,
)
from fungistore.loff.data import HeadData, moments, open_head_data, pooled
from fungistore.loff.heads import LINEAR, HeadSpec, Standardise, build_head
from fungistore.loff.loader import Batch, PatchLoader
from fungistore.loff.options import TrainOptions
from fungistore.loff.order import Order, Sequential, Shuffled, Weighted, balanced_weights
from fungistore.loff.scoring import score_head
from fungistore.loff.tensorboard import Scalars
from fungistore.names import refuse_odd_name
from fungistore.randomness import Stream
from fungistore.report import Reporter, Silent, stop_if_asked
from fungistore.store import SCHEMA_VERSION, Store

GRADIENT_NORM = 1.0  # gradients are clipped to it, as is usual for vision transformers
OUTSIDE = ("name", "feature_set", "device", "cache", "checkpoint_minutes")  # change no weights


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
        n_train, n_validation: rows.
        excluded: rows that were left out, by reason.
        images_per_second: of this run's training steps; 0 where nothing was to do.
        fingerprint: of the configuration.
        fingerprints: of the array it was made from.
    """

    store: str
    feature_set: str
    name: str
    head: Config
    epochs: int
    best_epoch: int
    validation: dict[str, float]
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
    options: TrainOptions,
    *,
    restart: bool = False,
    reporter: Reporter | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train a head on a store's tensors, continuing where it stopped.

    A run that was killed and started again gives the weights of one that was not, bit for bit on
    one CPU. The best epoch, by the validation metric, is kept. Test rows are not read.

    Args:
        store: the store's directory.
        options: what to train, and how.
        restart: first delete the head of this name.
        reporter: is told what happens; default: nobody.
        stop: asked between steps; a checkpoint is written before the run ends.

    Raises:
        UsageError: features or labels are missing, or an option cannot be served.
        MismatchError: a head of this name was trained with other settings, or on other rows.
        StoppedError: `stop` asked for it.
        FungiError: the loss is not finite; the last good checkpoint is kept.
    """
    reporter = reporter or Silent()
    with Store.open(Path(store)).writing():
        return _train(Store.open(Path(store)), options, reporter, stop, restart=restart)


def _train(
    store: Store,
    options: TrainOptions,
    reporter: Reporter,
    stop: Callable[[], bool],
    *,
    restart: bool,
) -> TrainResult:
    device = resolve_device(options.device)
    kind = options.head or ("deit-s" if device.type == "cuda" else "vit-xs")
    if kind == LINEAR:
        options = replace(options, augment=Augmentation(kind=NONE, noise=0.0))
    data = open_head_data(
        store,
        "embeddings" if kind == LINEAR else "patches",
        feature_set=options.feature_set,
        pool=options.pool,
        holdout=options.holdout,
        validation=options.validation,
        seed=options.seed,
    )
    name = options.name or kind + ("-ta" if options.augment.kind != NONE else "")
    refuse_odd_name(name, "--name")
    run = RunDirectory(store, data.feature_set, name)
    spec = HeadSpec(
        kind=kind,
        in_dim=data.width,
        classes=len(data.names),
        grid=data.grid,
        init=options.init,
        standardise=options.standardise,
        drop_path=options.drop_path,
        dropout=options.dropout,
    )
    if restart:
        reporter.notice(f"--restart: deleting head {name!r}")
        run.remove()
    config = _settle(run, data, options, spec, device)
    key = fingerprint(config)
    progress = run.progress()
    speed = 0.0
    if progress.done:
        reporter.notice(f"nothing to do: {len(progress.history)} epochs are done")
    else:
        trainer = Trainer(data, options, spec, config["dtype"], device, run, reporter, stop)
        speed = trainer.run(progress)
        progress = run.progress()
    assert progress.best_epoch is not None  # an epoch has ended
    return TrainResult(
        store=str(store.root),
        feature_set=data.feature_set,
        name=name,
        head=spec.to_config(),
        epochs=len(progress.history),
        best_epoch=progress.best_epoch + 1,
        validation=progress.history[progress.best_epoch]["validation"],
        n_train=len(data.split.train),
        n_validation=len(data.split.validation),
        excluded=data.excluded,
        images_per_second=speed,
        fingerprint=key,
        fingerprints={data.array.name: data.array.fingerprint},
    )


def _settle(
    run: RunDirectory,
    data: HeadData,
    options: TrainOptions,
    spec: HeadSpec,
    device: torch.device,
) -> Config:
    """Freeze everything that decides the weights, or refuse what differs from what was frozen."""
    stored = run.config()
    dtype: str = options.dtype
    if dtype == "auto":
        # on CPUs the small products of a head's backward pass are slower in bfloat16 (measured)
        is_fast = device.type == "cuda" and fast_dtype(device) == "bfloat16"
        dtype = stored["dtype"] if stored else "bfloat16" if is_fast else "float32"
    settings = {key: value for key, value in asdict(options).items() if key not in OUTSIDE}
    config: Config = {
        "schema": SCHEMA_VERSION[0],
        "options": settings | {"head": spec.kind, "dtype": dtype},
        "head": spec.to_config(),
        "dtype": dtype,
        "classes": list(data.names),
        "split": data.split.description,
        "rows": data.digest(),
        "inputs": {data.array.name: data.array.fingerprint},
    }
    if stored is None:
        run.begin(config)
        return config
    fields = differences(stored, config, common=False)
    if fields:
        raise MismatchError(
            "a head of this name was trained with other settings",
            where=run.path,
            expected="the same settings and rows, or another name",
            found=describe(fields),
            hint="another --name keeps both, --restart starts anew",
        )
    return config


class Trainer:
    """The loop over epochs and steps; everything random comes from (seed, epoch, step).

    Args:
        data: the rows.
        options: the settings.
        spec: the head.
        dtype: of matrix products, "float32" or "bfloat16".
        device: where to train.
        run: where the run is kept.
        reporter: is told how it gets on.
        stop: asked between steps.
    """

    def __init__(
        self,
        data: HeadData,
        options: TrainOptions,
        spec: HeadSpec,
        dtype: str,
        device: torch.device,
        run: RunDirectory,
        reporter: Reporter,
        stop: Callable[[], bool],
    ) -> None:
        self._data, self._options, self._device = data, options, device
        self._run, self._reporter, self._stop = run, reporter, stop
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._head = build_head(spec, seed=options.seed)
        self._best: Tensors = {}
        order: Order = Shuffled(data.split.train, options.seed)
        if options.balanced:
            weights = balanced_weights(data.labels[data.split.train].astype(np.int64))
            order = Weighted(data.split.train, weights, options.seed)
        self._loader = self._load(order)
        self._validation = self._load(Sequential(data.split.validation))
        self._labels = torch.from_numpy(data.labels.astype(np.int64))
        self._steps = options.epochs * self._loader.steps

    def _load(self, order: Order, cache: CacheChoice | None = None) -> PatchLoader:
        return PatchLoader(
            self._data.array,
            order,
            self._options.batch_size,
            device=self._device,
            cache=cache or self._options.cache,
            reporter=self._reporter,
            stop=self._stop,
        )

    def run(self, progress: Progress) -> float:
        """Train from where `progress` is to the end; returns training rows a second."""
        rows, seconds = 0, 0.0
        with _own_random_state(self._device):
            optimiser = self._restore(progress)
            scalars = Scalars(self._run.path)
            self._reporter.begin("steps", self._steps, done=self._done(progress))
            while not progress.done:
                began, before = time.perf_counter(), progress.step
                progress = self._epoch(progress, optimiser)
                trained = min(
                    (self._loader.steps - before) * self._options.batch_size,
                    len(self._data.split.train),
                )
                rows, seconds = rows + trained, seconds + time.perf_counter() - began
                progress = self._end_epoch(progress, optimiser, rows / seconds, scalars)
            self._reporter.end()
            scalars.close()
        return rows / max(seconds, 1e-9)

    def _restore(self, progress: Progress) -> torch.optim.Optimizer:
        head = self._head
        if progress.file is None:
            if isinstance(head.standardise, Standardise):
                sequence = self._load(Sequential(self._data.split.train), cache="none")
                head.standardise.set_moments(*moments(sequence, self._options.pool))
            head.to(self._device)
            return self._optimiser()
        tensors = self._run.tensors(progress)
        head.load_state_dict(below(tensors, "model."))
        head.to(self._device)
        self._best = below(tensors, "best.")
        optimiser = self._optimiser()
        restore_optimiser(optimiser, self._names(), tensors)
        self._reporter.notice(
            f"resuming: epoch {progress.epoch + 1}/{self._options.epochs}, "
            f"step {progress.step}/{self._loader.steps}"
        )
        return optimiser

    def _optimiser(self) -> torch.optim.Optimizer:
        keep = self._head.no_weight_decay()
        named = list(self._head.named_parameters())
        free = [p for name, p in named if p.ndim < 2 or name in keep]
        decaying = [p for name, p in named if p.ndim >= 2 and name not in keep]
        groups = [
            {"params": decaying, "weight_decay": self._options.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self._options.lr, fused=True)

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self._head.named_parameters()}

    def _done(self, progress: Progress) -> int:
        return progress.epoch * self._loader.steps + progress.step

    def _epoch(self, progress: Progress, optimiser: torch.optim.Optimizer) -> Progress:
        """Train to the end of an epoch, saving the state now and then."""
        self._head.train()
        saved = time.monotonic()
        sums = torch.tensor(progress.loss_sum, dtype=torch.float64, device=self._device)
        before: tuple[Batch, Tensor] | None = None
        for batch in self._loader.epoch(progress.epoch, progress.step):
            loss = self._step(batch, progress, optimiser)
            sums += loss.double() * len(batch.rows)
            # looked at one step late, so that a GPU need not wait for the CPU
            self._refuse_nan(before)
            before = batch, loss
            progress = replace(progress, step=progress.step + 1)
            self._reporter.advance(1)
            is_due = time.monotonic() - saved > 60 * self._options.checkpoint_minutes
            if is_due or self._stop():
                self._refuse_nan(before)
                progress = self._save(replace(progress, loss_sum=float(sums)), optimiser)
                saved = time.monotonic()
                stop_if_asked(self._stop)
        self._refuse_nan(before)
        return replace(progress, loss_sum=float(sums))

    def _step(self, batch: Batch, progress: Progress, optimiser: torch.optim.Optimizer) -> Tensor:
        """Take one step of AdamW; returns the loss."""
        options, seed, epoch, step = (
            self._options,
            self._options.seed,
            progress.epoch,
            progress.step,
        )
        for group in optimiser.param_groups:
            group["lr"] = options.lr * self._rate(self._done(progress))
        targets = nn.functional.one_hot(
            self._labels[torch.from_numpy(batch.rows)], len(self._data.names)
        )
        targets = targets.to(self._device, torch.float32)
        with torch.no_grad():
            tokens = batch.values if options.pool == 1 else pooled(batch.values, options.pool)
            tokens = self._head.standardise(tokens)
            if tokens.ndim == 4:
                shape = (tokens.shape[0], tokens.shape[1], tokens.shape[2], tokens.shape[3])
                drawn = draw(options.augment, shape, seed=seed, epoch=epoch, step=step)
                tokens, targets = augment(tokens, targets, drawn)
        _seed(Stream(seed, "dropout", str(epoch), str(step)), self._device)
        with torch.autocast(self._device.type, torch.bfloat16, self._dtype == torch.bfloat16):
            logits = self._head.classify(tokens)
        loss = nn.functional.cross_entropy(
            logits.float(), targets, label_smoothing=options.label_smoothing
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._head.parameters(), GRADIENT_NORM)
        optimiser.step()
        return loss.detach()

    def _rate(self, step: int) -> float:
        """Return the part of the highest learning rate: linear warm-up, then a cosine to zero."""
        warmup = round(self._options.warmup * self._steps)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self._steps - warmup)))

    def _end_epoch(
        self,
        progress: Progress,
        optimiser: torch.optim.Optimizer,
        speed: float,
        scalars: Scalars,
    ) -> Progress:
        """Validate, keep the weights if they are the best so far, and save."""
        options, truth = self._options, self._data.labels[self._data.split.validation]
        metrics = score_head(
            self._head, self._validation, truth, pool=options.pool, dtype=self._dtype
        )
        epoch = progress.epoch
        loss = progress.loss_sum / len(self._data.split.train)
        history = (*progress.history, {"epoch": epoch + 1, "loss": loss, "validation": metrics})
        best = progress.best_epoch
        value = metrics.get(options.metric)
        if value is None:
            raise FungiError(
                f"the validation rows have no {options.metric}",
                found=", ".join(metrics),
                hint="choose another --metric",
            )
        if best is None or value > history[best]["validation"][options.metric]:
            best = epoch
            self._best = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self._head.state_dict().items()
            }
        is_tired = options.patience is not None and epoch - best >= options.patience
        self._reporter.notice(
            f"epoch {epoch + 1}/{options.epochs}: loss {loss:.4f}, validation "
            f"{options.metric.replace('_', ' ')} {value:.4f}"
            f"{' (best)' if best == epoch else ''}, {speed:.0f} images/s"
        )
        if is_tired:
            self._reporter.notice(f"no better for {options.patience} epochs: stopping early")
        scalars.write(epoch + 1, {"loss": loss, **metrics})
        done = is_tired or epoch + 1 == options.epochs
        after = Progress(
            epoch=epoch + 1, best_epoch=best, done=done, history=history, file=progress.file
        )
        return self._save(after, optimiser)

    def _save(self, progress: Progress, optimiser: torch.optim.Optimizer) -> Progress:
        best = {f"best.{name}": tensor for name, tensor in self._best.items()}
        if progress.done:  # nothing will be trained any more
            return self._run.save(progress, best)
        model = {f"model.{name}": tensor for name, tensor in self._head.state_dict().items()}
        moments = flatten_optimiser(optimiser, self._names())
        return self._run.save(progress, {**model, **moments, **best})

    def _refuse_nan(self, stepped: tuple[Batch, Tensor] | None) -> None:
        if stepped is None or math.isfinite(float(stepped[1])):
            return
        rows = ", ".join(map(str, stepped[0].rows[:8].tolist()))
        raise FungiError(
            "the loss is not finite",
            where=f"rows {rows}{', ...' if len(stepped[0].rows) > 8 else ''}",
            found=float(stepped[1]),
            hint="the last good checkpoint is kept; try a smaller --lr, or --dtype float32, under "
            "another --name",
        )


@contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Leave torch's global generators as they were: dropout draws from them."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def _seed(stream: Stream, device: torch.device) -> None:
    word = int(stream.words(1)[0] >> np.uint64(1))
    if device.type == "cuda":
        torch.cuda.manual_seed(word)
    else:
        torch.default_generator.manual_seed(word)
