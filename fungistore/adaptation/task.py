"""Training of an adapted backbone, as the loop wants it: images, augmented by threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fungistore.adaptation.augment import TrainingView
from fungistore.adaptation.images import ImageBatch, ImageLoader
from fungistore.adaptation.model import AdaptedModel, parameter_groups
from fungistore.adaptation.options import AdaptOptions
from fungistore.adaptation.rows import AdaptRows, Reader
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.errors import UsageError
from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.ordered import ranks_for
from fungistore.evaluation.predictions import Predictions
from fungistore.machine.context import Context
from fungistore.machine.transfer import send
from fungistore.modalities.image.pixels import NormalizedViews
from fungistore.quantities import counted
from fungistore.store.samples import Rows
from fungistore.training.losses import ClassificationLoss
from fungistore.training.order import Sequential, training_order
from fungistore.training.task import Tensors


class AdaptTask:
    """A backbone and a classifier that are trained on images.

    Args:
        data: the rows.
        model: what is trained.
        encoder: that its backbone is of.
        options: the settings.
        dtype: of the backbone's matrix products, "float32" or "bfloat16".
        device: where to train.
        reader: of the images.
        context: its stop is asked while images are loaded.
    """

    def __init__(
        self,
        data: AdaptRows,
        model: AdaptedModel,
        encoder: TimmViT,
        options: AdaptOptions,
        dtype: str,
        device: torch.device,
        reader: Reader,
        context: Context,
    ) -> None:
        self._data, self._options, self._device, self._model = data, options, device, model
        self._bfloat16 = dtype == "bfloat16"
        train = data.split.train
        order = training_order(train, data.labels, options.seed, balanced=options.balanced)
        config = encoder.data_config
        pixels = TrainingView(options.augment, encoder.image_size, config["interpolation"])
        self._loader = ImageLoader(
            data,
            order,
            NormalizedViews(pixels, encoder.statistics),
            options.batch_size,
            options.seed,
            device,
            reader,
            context,
        )
        self._validation = replace(
            self._loader, order=Sequential(data.split.validation), view=encoder.base_view
        )
        self._labels = torch.from_numpy(data.labels.astype(np.int64))
        self._loss = ClassificationLoss.named(
            options.loss,
            data.labels[train],
            len(data.names),
            smoothing=options.label_smoothing,
            device=device,
        )

    @property
    def module(self) -> AdaptedModel:
        """The backbone, with the classifier."""
        return self._model

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self._data.split.train)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self._loader.steps

    def begin(self, tensors: Mapping[str, Tensor] | None) -> None:
        """Take stored weights, if there are any, and go to the device."""
        if tensors is not None:
            self._model.load(tensors)
        self._model.to(self._device)

    def state(self) -> Tensors:
        """Return what is trained; the rest is the backbone's own, and in its file."""
        return self._model.state()

    def groups(self) -> list[dict[str, Any]]:
        """Return what is trained, by weight decay and rate."""
        return parameter_groups(self._model, self._options)

    def batches(self, epoch: int, start_step: int) -> Iterator[ImageBatch]:
        """Yield the batches of an epoch, from a step on."""
        return self._loader.epoch(epoch, start_step)

    def gradients(self, batch: ImageBatch, epoch: int, step: int) -> Tensor:
        """Give what is trained the gradients of a batch's loss, and return the loss."""
        loss = self._of(batch, epoch, step)
        loss.backward()
        return loss.detach()

    def _of(self, batch: ImageBatch, epoch: int, step: int) -> Tensor:
        """Return the loss of a batch."""
        labels = send(self._labels[torch.from_numpy(batch.rows)], self._device)
        targets = nn.functional.one_hot(labels, len(self._data.names)).float()
        try:
            logits = self._model(batch.pixels, bfloat16=self._bfloat16)
        except ValueError as error:  # a batch norm over one number has no deviation
            if len(batch.rows) > 1:
                raise
            raise UsageError(
                "batch norms cannot be trained on one image",
                where=f"epoch {epoch + 1}, step {step + 1} of {self.steps}",
                expected="batches of two images or more",
                found=f"{counted(self.rows, 'image')} in batches of {self._options.batch_size}",
                hint="another --batch-size, of which one image is not left over, with --restart",
            ) from error
        return self._loss(logits, targets)

    def validate(self) -> dict[str, float]:
        """Return metrics of the validation rows, each image as the encoder's own view."""
        said = self._probabilities()
        rows: Rows = self._data.split.validation
        return classification_metrics(
            self._data.labels[rows],
            Predictions.of_probabilities(said, np.arange(said.shape[1])),
            said.shape[1],
            ranks_for(self._options.metric, self._data.names, self._options.order),
        )

    @torch.no_grad()
    def _probabilities(self) -> NDArray[np.float32]:
        self._model.eval()
        parts = [
            self._model(batch.pixels, bfloat16=self._bfloat16).softmax(dim=1).cpu()
            for batch in self._validation.epoch(0)
        ]
        return torch.cat(parts).numpy()
