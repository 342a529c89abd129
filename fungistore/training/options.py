"""What every training is asked: how long, how fast, by which loss, and which epoch is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt

from fungistore.extraction.options import ReplayChoice
from fungistore.headings import ROWS, SCORES, SPEED
from fungistore.machine.choices import DeviceChoice
from fungistore.matrices.choices import OrderChoice, RemovedChoice, SplitChoice
from fungistore.settings import Count, Positive, Setting, Share, refusal

EpochMetric = Literal["accuracy", "mean_per_class_accuracy", "roc_auc", "quadratic_kappa"]
LossName = Literal["cross-entropy", "weighted", "balanced-softmax"]
PLAIN_LOSS: LossName = "cross-entropy"
ZeroToOne = Annotated[float, Ge(0), Le(1)]
Chance = Annotated[float, Ge(0), Lt(1)]


# settings that came later: left out of a frozen configuration where they change nothing, so that
# older trainings still fit
LATER: dict[str, Any] = {
    "order": None,
    "ema": 0.0,
    "loss": PLAIN_LOSS,
    "split_seed": None,
    "group": None,
}


def without_defaults(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that have their default."""
    return {
        name: value
        for name, value in settings.items()
        if name not in defaults or value != defaults[name]
    }


@dataclass(frozen=True, kw_only=True)
class LoopOptions(SplitChoice, RemovedChoice, OrderChoice, DeviceChoice):
    """Settings of a training; the seed is of everything random in it."""

    heading = "Training"

    epochs: Annotated[Count, Setting("Passes over the training rows; settled with the first.")] = 30
    batch_size: Annotated[Count, Setting("Rows of a step.")] = 64
    lr: Annotated[Positive, Setting("Highest learning rate of AdamW.")] = 5e-4
    weight_decay: Annotated[ZeroToOne, Setting("Of AdamW, for matrices.")] = 0.05
    warmup: Annotated[ZeroToOne, Setting("Part of all steps in which the rate rises.")] = 0.1
    label_smoothing: Annotated[ZeroToOne, Setting("Part of the target for all classes.")] = 0.0
    loss: Annotated[LossName, Setting("The others are for classes of unequal sizes.")] = PLAIN_LOSS
    balanced: Annotated[bool, Setting("Draw every class equally often.")] = False
    ema: Annotated[
        Chance, Setting("Decay of a moving average of weights, which is kept; 0: none.")
    ] = 0.0
    patience: Annotated[
        Count | None,
        Setting("Stop after so many epochs without a better one.", default="train all epochs"),
    ] = None
    metric: Annotated[
        EpochMetric, Setting("Chooses the epoch, on validation rows.", heading=SCORES)
    ] = "accuracy"
    validation: Annotated[
        Share, Setting("Part of each training class, without a split val.", heading=ROWS)
    ] = 0.2
    checkpoint_minutes: Annotated[Positive, Setting("Longest time between checkpoints.")] = 10.0
    log_to: Annotated[
        tuple[str, ...],
        Setting(
            "Tell tensorboard, wandb or mlflow of each epoch, too.",
            default="log.jsonl alone",
            metavar="NAMES",
        ),
    ] = ()

    def __post_init__(self) -> None:
        """Check every field, and that unequal classes are evened out once."""
        super().__post_init__()
        if self.balanced and self.loss != PLAIN_LOSS:
            expected = f"{PLAIN_LOSS} with --balanced, which draws all classes equally often"
            hint = "either --balanced or --loss evens the classes out; both would do it twice"
            raise refusal("--loss", expected, self.loss, hint)


@dataclass(frozen=True, kw_only=True)
class TimingChoice(ReplayChoice):
    """Whether an evaluation of what was trained on features runs their backbone, to time it."""

    time_backbone: Annotated[
        Count | None,
        Setting(
            "Run the backbone on so many test images, to time it.",
            default="its speed is not told",
            heading=SPEED,
        ),
    ] = None
