"""The loop of a training run: steps, epochs, and the state that is saved on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fungistore.errors import FungiError
from fungistore.evaluation.ordered import ranks_for
from fungistore.loff.augment import augment, draw
from fungistore.loff.checkpoint import (
    Tensors,
    below,
    flatten_optimiser,
    load_tensors,
    restore_optimiser,
    save_tensors,
)
from fungistore.loff.data import HeadData, moments
from fungistore.loff.heads import HeadSpec, Standardise, build_head
from fungistore.loff.loader import Batch, PatchLoader
from fungistore.loff.options import CacheChoice, TrainOptions
from fungistore.loff.order import Order, Sequential, Shuffled, Weighted, balanced_weights
from fungistore.loff.run_folder import Progress, RunFolder
from fungistore.loff.run_loggers import Tail
from fungistore.loff.scoring import score_head
from fungistore.machine.context import Context
from fungistore.machine.transfer import Fetch, send, start_fetch
from fungistore.matrices.cells import pooled
from fungistore.quantities import counted
from fungistore.randomness import Stream

GRADIENT_NORM = 1.0  # gradients are clipped to it, as is usual for vision transformers
ROWS_SHOWN = 8


class Trainer:
    """The loop over epochs and steps; everything random comes from (seed, epoch, step).

    Args:
        data: the rows.
        options: the settings.
        spec: the head.
        dtype: of matrix products, "float32" or "bfloat16".
        device: where to train.
        run: where the run is kept.
        tail: who else is told of each epoch.
        context: its reporter is told what happens, its stop asked between steps.
    """

    def __init__(
        self,
        data: HeadData,
        options: TrainOptions,
        spec: HeadSpec,
        dtype: str,
        device: torch.device,
        run: RunFolder,
        tail: Tail,
        context: Context,
    ) -> None:
        self._data, self._options, self._device = data, options, device
        self._run, self._context, self._reporter = run, context, context.reporter
        self._tail = tail
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
            context=self._context,
        )

    def run(self, progress: Progress) -> float:
        """Train from where `progress` is to the end; returns training rows a second."""
        rows, seconds = 0, 0.0
        with _own_random_state(self._device):
            optimiser = self._restore(progress)
            self._reporter.begin("steps", self._steps, done=self._done(progress))
            while not progress.done:
                began, before = time.perf_counter(), progress.step
                progress = self._epoch(progress, optimiser)
                trained = min(
                    (self._loader.steps - before) * self._options.batch_size,
                    len(self._data.split.train),
                )
                rows, seconds = rows + trained, seconds + time.perf_counter() - began
                progress = self._end_epoch(progress, optimiser, rows / seconds)
                self._tail.follow()
            self._reporter.end()
        return rows / max(seconds, 1e-9)

    def _restore(self, progress: Progress) -> torch.optim.Optimizer:
        head = self._head
        if progress.file is None:
            if isinstance(head.standardise, Standardise):
                sequence = self._load(Sequential(self._data.split.train), cache="none")
                head.standardise.set_moments(*moments(sequence, self._options.pool))
            head.to(self._device)
            return self._optimiser()
        tensors = load_tensors(self._run, progress)
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
        before: tuple[Batch, Fetch] | None = None
        for batch in self._loader.epoch(progress.epoch, progress.step):
            loss = self._step(batch, progress, optimiser)
            sums += loss.double() * len(batch.rows)
            # looked at one step late, so that a GPU need not wait for the CPU
            self._refuse_nan(before)
            before = batch, start_fetch({"loss": loss})
            progress = replace(progress, step=progress.step + 1)
            self._reporter.advance(1)
            is_due = time.monotonic() - saved > 60 * self._options.checkpoint_minutes
            if is_due or self._context.stop():
                self._refuse_nan(before)
                progress = self._save(replace(progress, loss_sum=float(sums)), optimiser)
                saved = time.monotonic()
                self._context.stop_if_asked()
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
        labels = send(self._labels[torch.from_numpy(batch.rows)], self._device)
        targets = nn.functional.one_hot(labels, len(self._data.names)).float()
        with torch.no_grad():
            tokens = self._head.standardise(pooled(batch.values, options.pool))
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
        self, progress: Progress, optimiser: torch.optim.Optimizer, speed: float
    ) -> Progress:
        """Validate, keep the weights if they are the best so far, and save."""
        options, truth = self._options, self._data.labels[self._data.split.validation]
        metrics = score_head(
            self._head,
            self._validation,
            truth,
            pool=options.pool,
            dtype=self._dtype,
            ranks=ranks_for(options.metric, self._data.names, options.order),
        )
        epoch = progress.epoch
        loss = progress.loss_sum / len(self._data.split.train)
        history = (*progress.history, {"epoch": epoch + 1, "loss": loss, "validation": metrics})
        best = progress.best_epoch
        value = metrics[options.metric]  # `refuse_metric` knows that there is one
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
            self._reporter.notice(
                f"no better for {counted(options.patience or 0, 'epoch')}: stopping early"
            )
        done = is_tired or epoch + 1 == options.epochs
        after = Progress(
            epoch=epoch + 1, best_epoch=best, done=done, history=history, file=progress.file
        )
        return self._save(after, optimiser)

    def _save(self, progress: Progress, optimiser: torch.optim.Optimizer) -> Progress:
        best = {f"best.{name}": tensor for name, tensor in self._best.items()}
        if progress.done:  # nothing will be trained any more
            return save_tensors(self._run, progress, best)
        model = {f"model.{name}": tensor for name, tensor in self._head.state_dict().items()}
        moments = flatten_optimiser(optimiser, self._names())
        return save_tensors(self._run, progress, {**model, **moments, **best})

    def _refuse_nan(self, stepped: tuple[Batch, Fetch] | None) -> None:
        if stepped is None:
            return
        loss = float(stepped[1]()["loss"])
        if math.isfinite(loss):
            return
        rows = ", ".join(map(str, stepped[0].rows[:ROWS_SHOWN].tolist()))
        raise FungiError(
            "the loss is not finite",
            where=f"rows {rows}{', ...' if len(stepped[0].rows) > ROWS_SHOWN else ''}",
            found=loss,
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
