"""What `fungi adapt` is asked to do: which backbone, by which method, on which images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from fungistore.backbones.adapters.registry import ADAPTERS
from fungistore.backbones.families import absolute_model
from fungistore.errors import UsageError
from fungistore.extraction.objective_tables import applied
from fungistore.headings import DATA, MODEL, SPEED
from fungistore.names import PlainName
from fungistore.settings import Count, Positive, Setting, Settings, build
from fungistore.training.options import LoopOptions, ZeroToOne

if TYPE_CHECKING:
    from fungistore.backbones.adapters.adapter import Adapter

AutoAugment = Literal["none", "trivial", "rand"]
AdaptDtype = Literal["auto", "float32", "bfloat16"]
NotNegative = Annotated[float, Ge(0)]
Scale = Annotated[float, Gt(0), Le(1)]
FULL = "full"


@dataclass(frozen=True, kw_only=True)
class ImageAugmentation(Settings):
    """How training images are varied; images to validate on are the encoder's own view.

    Attributes:
        min_scale: the least part of an image's area that a crop has; 1 takes nearly all of it. Half
            keeps what a class is told by, where ImageNet's 0.08 may cut it off: fine-tuning has few
            epochs to see all of an image.
        auto_augment: "trivial" is one operation of any strength an image (TrivialAugment), "rand"
            two of strength 9 (timm's rand-m9-mstd0.5-inc1).
    """

    heading = "Augmentation"

    min_scale: Annotated[Scale, Setting("Least part of an image that a crop has.")] = 0.5
    hflip: Annotated[ZeroToOne, Setting("Part of images mirrored left to right.")] = 0.5
    vflip: Annotated[ZeroToOne, Setting("Part of images turned upside down.")] = 0.0
    color_jitter: Annotated[
        NotNegative, Setting("Change of brightness, contrast and saturation.")
    ] = 0.0
    auto_augment: Annotated[AutoAugment, Setting("TrivialAugment or RandAugment, on top.")] = "none"


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(LoopOptions):
    """Settings of `fungi adapt`; None means "decide, and freeze it with the adaptation".

    `settings` are the method's own, by name, as {"prompts": 20}. The seed is of everything random:
    holdout, validation rows, weights, order, augmentation.
    """

    heading = "Training"

    model: Annotated[
        str, Setting("A vision transformer of timm.", metavar="NAME", names="model", heading=MODEL)
    ]
    weights: Annotated[
        str | None,
        Setting(
            "A weights file of your own.",
            default="timm's download",
            metavar="FILE",
            heading=MODEL,
        ),
    ] = None
    image_size: Annotated[
        Count | None,
        Setting("Side of the model's input in pixels.", default="the model's own", heading=MODEL),
    ] = None
    method: Annotated[
        str,
        Setting("full, linear, vpt, ssf, adaptformer or lora.", metavar="NAME", heading=MODEL),
    ] = FULL
    settings: Annotated[
        Mapping[str, Any],
        Setting(
            "A setting of the method, such as vpt.prompts=20.",
            flag="--set",
            default="the paper's",
            metavar="METHOD.FIELD=VALUE",
            heading=MODEL,
            is_repeated=True,
        ),
    ] = field(default_factory=dict)
    name: Annotated[
        PlainName | None,
        Setting("Name of the adaptation.", default="the method", metavar="NAME", heading=MODEL),
    ] = None
    augment: ImageAugmentation = ImageAugmentation()
    batch_size: Annotated[Count, Setting("Images of a step.")] = 32
    lr: Annotated[
        Positive | None,
        Setting(
            "Highest learning rate of AdamW.",
            default="the method's: 2e-4 with full",
        ),
    ] = None  # type: ignore[assignment]  # decided before the loop starts
    layer_decay: Annotated[
        Scale,
        Setting("With full, each block's rate is this part of the next one's."),
    ] = 0.75
    dtype: Annotated[AdaptDtype, Setting("Of matrix products.", heading=SPEED)] = "auto"
    gradient_checkpointing: Annotated[
        bool | None,
        Setting(
            "Keep fewer activations, compute them again.",
            default="where memory asks for it",
            heading=SPEED,
        ),
    ] = None
    workers: Annotated[
        Count | None,
        Setting("Threads that decode images.", default="from the CPU cores", heading=DATA),
    ] = None

    def __post_init__(self) -> None:
        """Check every field, and the method's own; a file of weights is known by its whole path.

        Raises:
            UsageError: naming the option, what it takes and what it got.
        """
        if isinstance(self.method, str):
            ADAPTERS.choose(self.method, "--method")
        if isinstance(self.settings, list | tuple):  # METHOD.FIELD=VALUE each
            object.__setattr__(self, "settings", _own(self.settings, self.method))
        super().__post_init__()
        object.__setattr__(self, "model", absolute_model(self.model))
        if self.weights is not None:
            object.__setattr__(self, "weights", str(Path(self.weights).absolute()))
        self.adapter()

    @property
    def called(self) -> str:
        """Name of the adaptation."""
        return self.method if self.name is None else self.name

    def adapter(self) -> Adapter:
        """Return the method with its settings.

        Raises:
            UsageError: it has none such.
        """
        made: Adapter = build(ADAPTERS[self.method], self.settings, self.method)
        return made


def _own(settings: Sequence[str], method: str) -> Mapping[str, Any]:
    """Return the settings of a method of those that flags have given.

    Raises:
        UsageError: one is of no such form, or of another method.
    """
    tables = applied(settings, {}, list(ADAPTERS))
    others = [name for name in tables if name != method]
    if others:
        raise UsageError(
            "a setting of another method",
            where=f"--set {others[0]}",
            expected=f"settings of {method}",
            found=", ".join(settings),
            hint=f"--method {others[0]}, or leave it out",
        )
    own: Mapping[str, Any] = tables.get(method, {})
    return own
