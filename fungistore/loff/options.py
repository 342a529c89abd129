"""What training a head (LOFF-TA), and asking one, are asked to do."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Predicate

from fungistore.extraction.options import ReplayChoice
from fungistore.headings import SPEED
from fungistore.loff.evaluate_options import MeanChoice
from fungistore.matrices.choices import ONLY, FeatureSetChoice
from fungistore.names import PlainName
from fungistore.settings import Count, Setting, Settings, refusal
from fungistore.training.options import Chance, LoopOptions
from fungistore.type_words import Words

HeadKind = Literal["deit-s", "deit-ti", "vit-xs", "attn-pool", "stat-pool", "linear"]
HEADS: tuple[HeadKind, ...] = get_args(HeadKind)
TRANSFORMERS: tuple[HeadKind, ...] = ("deit-s", "deit-ti", "vit-xs")
ON_CPUS: HeadKind = "stat-pool"  # as good as a small transformer there, and far cheaper
Interpolation = Literal["bilinear", "nearest"]
Padding = Literal["zeros", "mean", "border", "reflection"]
HeadDtype = Literal["auto", "float32", "bfloat16"]
CacheChoice = Literal["auto", "gpu", "ram", "none"]

TRIVIAL, NONE = "trivial", "none"
FLIPS = ("hflip", "vflip")
OPERATIONS = (
    "identity",
    *FLIPS,
    "translate-x",
    "translate-y",
    "shear-x",
    "shear-y",
    "rotate",
    "scale",
    "crop",
)
NOISE = 0.1  # LOFF-TA
LINEAR = "linear"
ALREADY = "the linear head reads the embedding already: leave --class-token out"
HEAD = "Head"


def _is_known(kind: str) -> bool:
    return kind in (NONE, TRIVIAL) or set(kind.split(",")) <= set(OPERATIONS)


Operations = Annotated[
    str,
    Predicate(_is_known),
    Words(f"{NONE}, {TRIVIAL}, or a comma list of {', '.join(OPERATIONS)}"),
]
NotNegative = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Augmentation(Settings):
    """How training tensors are varied. Meant for tokens standardised channel by channel.

    The order is: spatial operations, channel brightness, noise, mixing of samples, dropping of
    cells. Of an embedding beside the tokens, noise and mixing.

    Attributes:
        kind: "trivial" draws one spatial operation and strength for each sample, as TrivialAugment
            does; a comma list such as "hflip,rotate" applies all of them in that order, each at a
            random strength (a flip half of the time); "none" applies none.
        strength: part of each operation's range that strengths are drawn from, uniformly.
        padding: what lies beyond the grid: "zeros", which is the mean of the training rows once
            standardised, the sample's own "mean", or its "border" or "reflection".
        noise: standard deviation of Gaussian noise, in the unit of the tokens; None is 0 with
            "none", else 0.1.
        brightness: each channel is shifted by up to this part of its own range in the sample, and
            clipped to that range (channel brightness of FroFA, CVPR 2024).
        mixup: alpha of mixup's Beta(alpha, alpha); 0 turns it off.
        cutmix: alpha of CutMix's; with mixup on too, each sample gets one or the other.
        drop_tokens: share of a sample's cells that the head does not see, others in each step.
        raw: vary tokens as they are stored, and standardise them afterwards; noise is in their unit
            then, and zeros are no mean.
    """

    heading = "Augmentation"

    kind: Annotated[
        Operations | None,
        Setting(
            "trivial, none, or operations such as hflip,rotate.",
            flag="--augment",
            default=f"{TRIVIAL} with {', '.join(TRANSFORMERS)}, else {NONE}",
            metavar="NAMES",
        ),
    ] = None
    strength: Annotated[
        Annotated[float, Gt(0), Le(1)], Setting("Part of each operation's range.")
    ] = 1.0
    interpolation: Annotated[Interpolation, Setting("Between cells.")] = "bilinear"
    padding: Annotated[Padding, Setting("Beyond the grid; zeros: mean of all rows.")] = "zeros"
    noise: Annotated[
        NotNegative | None,
        Setting("Deviation of Gaussian noise.", default=f"{NOISE}; 0 without augment"),
    ] = None
    brightness: Annotated[
        NotNegative, Setting("Channel brightness (FroFA), part of its range.")
    ] = 0.0
    mixup: Annotated[NotNegative, Setting("Alpha of mixup.")] = 0.0
    cutmix: Annotated[NotNegative, Setting("Alpha of CutMix.")] = 0.0
    drop_tokens: Annotated[Chance, Setting("Share of cells that a step leaves out.")] = 0.0
    raw: Annotated[
        bool, Setting("Before channels are standardised, not after.", flag="--augment-raw")
    ] = False

    def __post_init__(self) -> None:
        """Check every field, and decide on the noise once the kind is known."""
        super().__post_init__()
        if self.noise is None and self.kind is not None:
            object.__setattr__(self, "noise", 0.0 if self.kind == NONE else NOISE)

    def of_head(self, head: HeadKind) -> Augmentation:
        """Return it with the kind that a head has where nobody says another.

        Heads that pool cells gained nothing from moving them, on three sets of images
        (docs/train.md).
        """
        usual = TRIVIAL if head in TRANSFORMERS else NONE
        return self if self.kind is not None else replace(self, kind=usual)

    def of_sequences(self) -> Augmentation:
        """Return what is left of it for tokens that have no place in an image: noise, mixup.

        Raises:
            UsageError: spatial operations were named, or CutMix's boxes.
        """
        hint = "--augment none with --noise and --mixup, which need no places; or import the "
        hint += "tokens as a grid: fungi import --grid"
        if self.kind not in (None, NONE, TRIVIAL):
            raise refusal("--augment", "none: a sequence has no rows and columns", self.kind, hint)
        if self.cutmix:
            raise refusal("--cutmix", "0: a sequence has no rows and columns", self.cutmix, hint)
        return replace(self, kind=NONE)

    @property
    def operations(self) -> tuple[str, ...]:
        """The spatial operations: those to choose from, or those to apply."""
        if self.kind is None or self.kind == NONE:
            return ()
        return OPERATIONS if self.kind == TRIVIAL else tuple(self.kind.split(","))


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LoopOptions, FeatureSetChoice):
    """Settings of `fungi train-loff`; None means "decide, and freeze it with the head".

    The seed is of everything random: holdout, validation rows, weights, order, augmentation; with
    `split_seed`, of all but the rows.
    """

    heading = "Training"

    head: Annotated[
        HeadKind | None,
        Setting(
            "deit-s has the paper's cost.",
            default=f"deit-s on a GPU, {ON_CPUS} elsewhere",
            heading=HEAD,
        ),
    ] = None
    name: Annotated[
        PlainName | None,
        Setting(
            "Name of the head.",
            default="its kind, and -ta if augmented",
            metavar="NAME",
            heading=HEAD,
            names="head",
        ),
    ] = None
    augment: Augmentation = Augmentation()
    pool: Annotated[
        Count, Setting("Average feature maps over N x N cells first.", heading=HEAD)
    ] = 1
    init: Annotated[
        str,
        Setting(
            "random, timm, or a .safetensors file.", metavar="[random|timm|FILE]", heading=HEAD
        ),
    ] = "random"
    standardise: Annotated[
        bool, Setting("Standardise channels first; the paper does not.", heading=HEAD)
    ] = True
    drop_path: Annotated[Chance, Setting("Stochastic depth of the last block.", heading=HEAD)] = 0.1
    dropout: Annotated[Chance, Setting("Of embedded tokens.", heading=HEAD)] = 0.0
    class_token: Annotated[
        bool, Setting("Take the stored embedding beside the patches.", heading=HEAD)
    ] = False
    dtype: Annotated[HeadDtype, Setting("Of matrix products.", heading=SPEED)] = "auto"
    cache: Annotated[CacheChoice, Setting("Where the rows are kept.", heading=SPEED)] = "auto"

    def __post_init__(self) -> None:
        """Check every field, and that there are patches for the class token to join."""
        super().__post_init__()
        if self.class_token and self.head == LINEAR:
            heads = " or ".join(head for head in HEADS if head != LINEAR)
            raise refusal("--class-token", f"with --head {heads}", f"--head {LINEAR}", ALREADY)


@dataclass(frozen=True, kw_only=True)
class HeadsOptions(TrainOptions):
    """Settings of `fungi train-loff`, of one head or of several that differ in their seeds."""

    seeds: Annotated[
        Count | None,
        Setting(
            "Train so many heads, NAME-s0 and so on, of seeds from --seed on.",
            default="one head, NAME",
            heading=HEAD,
        ),
    ] = None

    def of_one(self, **changes: Any) -> TrainOptions:
        """Return the settings of one head."""
        own = {one.name: getattr(self, one.name) for one in fields(TrainOptions)}
        return TrainOptions(**own | changes)

    def of_each(self, name: str) -> tuple[TrainOptions, ...]:
        """Return the settings of each head of several, named after their seeds."""
        seeds = range(self.seed, self.seed + (self.seeds or 1))
        return tuple(self.of_one(seed=seed, name=f"{name}-s{seed}") for seed in seeds)


@dataclass(frozen=True, kw_only=True)
class PredictOptions(FeatureSetChoice, ReplayChoice, MeanChoice):
    """Settings of `fungi predict`."""

    heading = MeanChoice.heading

    head: Annotated[
        str | None,
        Setting(
            "Needed where the store has several; a pattern with --ensemble.",
            default=ONLY,
            metavar="NAME",
            names="head",
        ),
    ] = None
