"""Training of a head, as the loop wants it: cached tensors, augmented on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fungistore.evaluation.ordered import ranks_for
from fungistore.loff.augment import augment, augment_embeddings, draw
from fungistore.loff.data import HeadData, as_maps, moments
from fungistore.loff.head import Head, HeadSpec, Standardise
from fungistore.loff.heads import build_head
from fungistore.loff.loader import Batch, PatchLoader
from fungistore.loff.options import TrainOptions
from fungistore.loff.pieces import Inputs, PiecewiseHead
from fungistore.loff.scoring import score_head
from fungistore.machine.context import Context
from fungistore.machine.cores import one_thread_each
from fungistore.machine.transfer import send
from fungistore.matrices.cells import pooled
from fungistore.randomness import Stream
from fungistore.store.units import UnitArray
from fungistore.training.losses import ClassificationLoss
from fungistore.training.order import Order, Sequential, training_order
from fungistore.training.task import Tensors


class HeadTask:
    """A head that is trained on cached tensors.

    Args:
        data: the rows.
        options: the settings.
        spec: the head.
        dtype: of matrix products, "float32" or "bfloat16".
        device: where to train.
        context: its reporter is told what happens, its stop asked while rows are loaded.
    """

    def __init__(
        self,
        data: HeadData,
        options: TrainOptions,
        spec: HeadSpec,
        dtype: str,
        device: torch.device,
        context: Context,
    ) -> None:
        self._data, self._options, self._device, self._context = data, options, device, context
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._head = build_head(spec, seed=options.seed)
        train = data.split.train
        order = training_order(train, data.labels, options.seed, balanced=options.balanced)
        self._loader = self._load(order)
        self._validation = self._load(Sequential(data.split.validation))
        self._pieces: PiecewiseHead | None = None
        self._labels = torch.from_numpy(data.labels.astype(np.int64))
        self._loss = ClassificationLoss.named(
            options.loss,
            data.labels[train],
            len(data.names),
            smoothing=options.label_smoothing,
            device=device,
        )

    def _load(self, order: Order) -> PatchLoader:
        return PatchLoader(
            self._data.array,
            order,
            self._options.batch_size,
            embeddings=self._data.embeddings,
            device=self._device,
            cache=self._options.cache,
            context=self._context,
        )

    @property
    def module(self) -> Head:
        """The head."""
        return self._head

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self._data.split.train)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self._loader.steps

    def begin(self, tensors: Mapping[str, Tensor] | None) -> None:
        """Take stored weights, or measure the moments of the train split for new ones."""
        head = self._head
        if tensors is not None:
            head.load_state_dict(tensors)
        else:
            self._measure(head.standardise, self._data.array, self._options.pool)
            if self._data.embeddings is not None:
                self._measure(head.standardise_embedding, self._data.embeddings, 1)
        head.to(self._device)
        self._pieces = PiecewiseHead(head) if self._device.type == "cpu" else None

    def _measure(self, standardise: nn.Module, array: UnitArray, pool: int) -> None:
        if isinstance(standardise, Standardise):
            train = Sequential(self._data.split.train)
            size, device = self._options.batch_size, self._device
            with one_thread_each(device):
                standardise.set_moments(
                    *moments(PatchLoader(array, train, size, device=device, cache="none"), pool)
                )

    def state(self) -> Tensors:
        """Return all weights, and the moments."""
        return dict(self._head.state_dict())

    def groups(self) -> list[dict[str, Any]]:
        """Return matrices, which decay, and all else."""
        keep = self._head.no_weight_decay()
        named = list(self._head.named_parameters())
        free = [p for name, p in named if p.ndim < 2 or name in keep]
        decaying = [p for name, p in named if p.ndim >= 2 and name not in keep]
        return [
            {"params": decaying, "weight_decay": self._options.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]

    def batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, from a step on."""
        return self._loader.epoch(epoch, start_step)

    def gradients(self, batch: Batch, epoch: int, step: int) -> Tensor:
        """Augment a batch, give the head the gradients of its loss, and return the loss."""
        with one_thread_each(self._device) as cores:
            inputs, targets = self._augmented(batch, epoch, step)
            if self._pieces is not None:
                stream = Stream(self._options.seed, "dropout", str(epoch), str(step))
                seeds = (
                    stream.words(len(inputs.pieces(self._head.piece_cells))) >> np.uint64(1)
                ).tolist()
                of_logits = partial(self._loss, targets=targets)
                return self._pieces.gradients(inputs, of_logits, seeds, self._dtype, cores)
            with torch.autocast(self._device.type, torch.bfloat16, self._dtype == torch.bfloat16):
                logits = self._head.classify(inputs.features, inputs.embedding, inputs.cells)
            loss = self._loss(logits, targets)
            loss.backward()
            return loss.detach()

    def _augmented(self, batch: Batch, epoch: int, step: int) -> tuple[Inputs, Tensor]:
        """Return what the head is given of a batch, and the targets."""
        options = self._options
        labels = send(self._labels[torch.from_numpy(batch.rows)], self._device)
        targets = nn.functional.one_hot(labels, len(self._data.names)).float()
        with torch.no_grad():
            tokens, embeddings = as_maps(pooled(batch.values, options.pool)), batch.embeddings
            if not options.augment.raw:
                tokens, embeddings = self._head.standardised(tokens, embeddings)
            cells = None
            if tokens.ndim == 4:
                shape = (tokens.shape[0], tokens.shape[1], tokens.shape[2], tokens.shape[3])
                drawn = draw(options.augment, shape, seed=options.seed, epoch=epoch, step=step)
                tokens, targets = augment(tokens, targets, drawn)
                if embeddings is not None:
                    embeddings = augment_embeddings(embeddings, drawn)
                if drawn.cells is not None:
                    cells = send(drawn.cells, self._device)
            if options.augment.raw:
                tokens, embeddings = self._head.standardised(tokens, embeddings)
        return Inputs(tokens, embeddings, cells), targets

    def validate(self) -> dict[str, float]:
        """Return metrics of the validation rows, unaugmented."""
        return score_head(
            self._head,
            self._validation,
            self._data.labels[self._data.split.validation],
            pool=self._options.pool,
            dtype=self._dtype,
            ranks=ranks_for(self._options.metric, self._data.names, self._options.order),
        )
