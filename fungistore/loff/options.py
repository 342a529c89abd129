"""What a training run of LOFF-TA is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fungistore.loff.augment import Augmentation
from fungistore.loff.cache import CacheChoice
from fungistore.loff.heads import HEADS
from fungistore.loff.settings import require
from fungistore.names import refuse_odd_name

Metric = Literal["accuracy", "mean_per_class_accuracy", "roc_auc", "quadratic_kappa"]
Dtype = Literal["auto", "float32", "bfloat16"]
METRICS = ("accuracy", "mean_per_class_accuracy", "roc_auc", "quadratic_kappa")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainOptions:
    """Settings of `fungi train-loff`; None means "decide, and freeze it with the head".

    Attributes:
        head: "deit-s" (the paper's cost), "deit-ti", "vit-xs", "attn-pool", or "linear".
        name: of the head; default: its kind, and "-ta" with augmentation.
        feature_set: may be left out where there is one.
        augment: tensor augmentation of training rows.
        pool: average the cells of a feature map over pool x pool first.
        init: "random", "timm", or a .safetensors file with timm's names.
        standardise: standardise channels by the train split's moments; False is the paper's.
        drop_path: chance to skip a residual branch in the last block.
        dropout: of the embedded tokens.
        epochs: passes over the training rows.
        batch_size: rows of a step.
        lr: highest learning rate of AdamW.
        weight_decay: of matrices; biases, norms, positions and the class token have none.
        warmup: part of all steps in which the rate rises; then it falls along a cosine.
        label_smoothing: part of the target spread over all classes.
        balanced: draw every class equally often.
        patience: stop after so many epochs without a better validation metric.
        metric: by which the best epoch is chosen, on validation rows.
        validation: part of each training class to validate on, where the store has no such split.
        holdout: part of each class to test on, where the store has no test split.
        seed: of everything random: holdout, validation rows, weights, order, augmentation.
        dtype: of matrix products; "auto" takes bfloat16 on GPUs that are fast at it.
        device: "auto", "cpu", "cuda", "cuda:1".
        cache: where the rows are kept: "auto", "ram", "gpu" or "none".
        checkpoint_minutes: longest time between checkpoints; each epoch ends with one.
    """

    head: str | None = None
    name: str | None = None
    feature_set: str | None = None
    augment: Augmentation = field(default_factory=Augmentation)
    pool: int = 1
    init: str = "random"
    standardise: bool = True
    drop_path: float = 0.1
    dropout: float = 0.0
    epochs: int = 30
    batch_size: int = 64
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.0
    balanced: bool = False
    patience: int | None = None
    metric: Metric = "accuracy"
    validation: float = 0.2
    holdout: float | None = None
    seed: int = 0
    dtype: Dtype = "auto"
    device: str = "auto"
    cache: CacheChoice = "auto"
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        """Refuse settings that no training could use, with UsageError."""
        require(self.head in (None, *HEADS), "--head", " or ".join(HEADS), self.head)
        if self.name is not None:
            refuse_odd_name(self.name, "--name")
        for flag in ("pool", "epochs", "batch_size"):
            require(getattr(self, flag) >= 1, _flag(flag), "1 or more", getattr(self, flag))
        for flag in ("lr", "checkpoint_minutes"):
            require(getattr(self, flag) > 0, _flag(flag), "more than 0", getattr(self, flag))
        for flag in ("weight_decay", "warmup", "label_smoothing"):
            value = getattr(self, flag)
            require(0 <= value <= 1, _flag(flag), "between 0 and 1", value)
        require(
            self.patience is None or self.patience >= 1, "--patience", "1 or more", self.patience
        )
        require(0 < self.validation < 1, "--validation", "between 0 and 1", self.validation)
        require(self.metric in METRICS, "--metric", " or ".join(METRICS), self.metric)
        require(self.dtype in DTYPES, "--dtype", " or ".join(DTYPES), self.dtype)
        caches = ("auto", "ram", "gpu", "none")
        require(self.cache in caches, "--cache", " or ".join(caches), self.cache)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
