"""The loop of a training run: steps, epochs, and the state that is saved on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Generic

import numpy as np
import torch
from torch import Tensor, nn

from fungistore.errors import FungiError
from fungistore.machine.context import Context
from fungistore.machine.cores import one_thread_each
from fungistore.machine.transfer import Fetch, start_fetch
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.training.average import WeightAverage
from fungistore.training.checkpoint import (
    below,
    flatten_optimiser,
    load_tensors,
    restore_optimiser,
    save_tensors,
)
from fungistore.training.options import LoopOptions
from fungistore.training.run_folder import Progress, RunFolder
from fungistore.training.run_loggers import Tail
from fungistore.training.speed import SpeedMeter
from fungistore.training.task import AnyBatch, Task, Tensors

GRADIENT_NORM = 1.0  # gradients are clipped to it, as is usual for vision transformers
ROWS_SHOWN = 8


class TrainingLoop(Generic[AnyBatch]):
    """The loop over epochs and steps; everything random comes from (seed, epoch, step).

    Args:
        task: what is trained.
        options: the settings.
        device: where to train.
        run: where the run is kept.
        tail: who else is told of each epoch.
        context: its reporter is told what happens, its stop asked between steps.
    """

    def __init__(
        self,
        task: Task[AnyBatch],
        options: LoopOptions,
        device: torch.device,
        run: RunFolder,
        tail: Tail,
        context: Context,
    ) -> None:
        self._task, self._options, self._device = task, options, device
        self._run, self._context, self._reporter = run, context, context.reporter
        self._tail = tail
        self._best: Tensors = {}
        self._average: WeightAverage | None = None
        self._steps = options.epochs * task.steps

    def run(self, progress: Progress) -> float:
        """Train from where `progress` is to the end; returns training rows a second."""
        meter = SpeedMeter(self._device)
        with _own_random_state(self._device):
            optimiser = self._restore(progress)
            self._reporter.begin("steps", self._steps, done=self._done(progress))
            while not progress.done:
                left = self._task.rows - progress.step * self._options.batch_size
                with meter.measuring():
                    progress = self._epoch(progress, optimiser)
                meter.rows += max(0, left)  # none after a stop between the last step and validation
                progress = self._end_epoch(progress, optimiser, meter.rows_per_second)
                meter.write(self._run)
                self._tail.follow()
            self._reporter.end()
        return meter.rows_per_second

    def _restore(self, progress: Progress) -> torch.optim.Optimizer:
        if progress.file is None:
            self._task.begin(None)
            self._begin_average(None)
            return self._optimiser()
        tensors = load_tensors(self._run, progress)
        self._task.begin(below(tensors, "model."))
        self._begin_average(below(tensors, "average."))
        self._best = below(tensors, "best.")
        optimiser = self._optimiser()
        restore_optimiser(optimiser, self._names(), tensors)
        self._reporter.notice(
            f"resuming: epoch {progress.epoch + 1}/{self._options.epochs}, "
            f"step {progress.step}/{self._task.steps}"
        )
        return optimiser

    def _begin_average(self, stored: Tensors | None) -> None:
        if self._options.ema:
            self._average = WeightAverage(self._task.state(), self._options.ema, stored)

    def _optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self._task.groups(), lr=self._options.lr, fused=True)

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self._task.module.named_parameters()}

    def _done(self, progress: Progress) -> int:
        return progress.epoch * self._task.steps + progress.step

    def _epoch(self, progress: Progress, optimiser: torch.optim.Optimizer) -> Progress:
        """Train to the end of an epoch, saving the state now and then."""
        self._task.module.train()
        saved = time.monotonic()
        sums = torch.tensor(progress.loss_sum, dtype=torch.float64, device=self._device)
        before: tuple[AnyBatch, Fetch] | None = None
        for batch in self._task.batches(progress.epoch, progress.step):
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

    def _step(
        self, batch: AnyBatch, progress: Progress, optimiser: torch.optim.Optimizer
    ) -> Tensor:
        """Take one step of AdamW; returns the loss."""
        options, epoch, step = self._options, progress.epoch, progress.step
        for group in optimiser.param_groups:
            rate = self._rate(self._done(progress)) * group.get("lr_scale", 1.0)
            group["lr"] = options.lr * rate
        _seed(Stream(options.seed, "dropout", str(epoch), str(step)), self._device)
        optimiser.zero_grad(set_to_none=True)
        loss = self._task.gradients(batch, epoch, step)
        with one_thread_each(self._device):  # or the norm would be another with other threads
            nn.utils.clip_grad_norm_(self._task.module.parameters(), GRADIENT_NORM)
            optimiser.step()
            if self._average is not None:
                self._average.update(self._done(progress))
        return loss

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
        options = self._options
        with self._average.in_place() if self._average else nullcontext():
            metrics = self._task.validate()
            epoch, loss = progress.epoch, progress.loss_sum / self._task.rows
            history = (*progress.history, {"epoch": epoch + 1, "loss": loss, "validation": metrics})
            best = progress.best_epoch
            value = metrics[options.metric]  # `refuse_metric` knows that there is one
            if best is None or value > history[best]["validation"][options.metric]:
                best = epoch
                self._best = {
                    name: tensor.detach().cpu().clone()
                    for name, tensor in self._task.state().items()
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
        tensors = {f"best.{name}": tensor for name, tensor in self._best.items()}
        if not progress.done:  # else nothing will be trained any more
            tensors |= {f"model.{name}": tensor for name, tensor in self._task.state().items()}
            tensors |= flatten_optimiser(optimiser, self._names())
            if self._average is not None:
                tensors |= {f"average.{n}": tensor for n, tensor in self._average.tensors.items()}
        return save_tensors(self._run, progress, tensors)

    def _refuse_nan(self, stepped: tuple[AnyBatch, Fetch] | None) -> None:
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
