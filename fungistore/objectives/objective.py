"""What an objective is: parameters, what it needs, and one loss a sample.

A new objective is one file with one frozen dataclass like the others here, named in
`fungistore.objectives.registry`, or by a plug-in as an entry point of the group
"fungistore.objectives"; nothing else changes. Its fields are its parameters: they are reachable
from the command line (`--set NAME.FIELD=VALUE`), from a configuration file, and part of the
fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fungistore.backbones.encoder import Encoder, TokenGrid
from fungistore.backbones.word_head import Carried
from fungistore.settings import require

Heads = Mapping[str, nn.Linear]
WORDS = "words"  # what a head of words is called among an objective's heads


@dataclass(frozen=True)
class BankSpec:
    """Latents of other samples, encoded once before the first unit, and frozen under a name.

    Attributes:
        name: what it is called, in its setup and in messages: "negatives".
        width: of a latent; None: that of a token; 0: that of an embedding.
        samples: how many samples of the train split are encoded; None: all of them.
        per_sample: latents that a sample puts into it; None: one for each of its views.
        most: where `samples` is None: no more than so many.
        views: of a sample that are encoded for it, the first ones; None: all of them.
    """

    name: str
    width: int | None
    samples: int | None
    per_sample: int | None = None
    most: int | None = None
    views: int | None = None


@dataclass(frozen=True)
class BankPlan:
    """What a bank will be, told before it is made.

    Attributes:
        shape: of its array.
        notice: what the user should know of it; None where there is nothing.
    """

    shape: tuple[int, ...]
    notice: str | None = None


@dataclass(frozen=True)
class Neighbors:
    """What tokens are compared with: for each its nearest of the bank, by their cosines.

    Attributes:
        count: how many of each token.
        search: "exact", or "ivf": among the lists of the nearest centroids alone.
    """

    count: int
    search: Literal["exact", "ivf"] = "exact"


@dataclass(frozen=True)
class Needs:
    """What an objective asks for, as plain data.

    Attributes:
        heads: output width of each projection head; every head is Linear(E, width). One of width 0
            is left out: there is no such head, and `project` gives what would enter it.
        token_heads: the same for heads of tokens, Linear(D, width).
        views: a request that the modality makes a recipe of (`fungistore.modalities.requests`),
            or the objective's own recipe (`OwnViews`); None: the view that embeddings have.
        tokens: `losses` reads tokens, whose gradients then count too.
        bank: latents of other samples that `losses` compares with; None where there are none.
        per_token: the feature is the gradient of each token, not of the whole sample; then
            `views` is None.
        token_draws: random numbers for each token: `losses` gets them as the last of what was
            drawn, [b, tokens * token_draws], uniform in [0, 1), the same for a sample in any run.
        neighbors: `losses` gets, in the bank's place, what each token is nearest to there.
        word_head: a head of words that the encoder's weights carry is among the heads, as WORDS.
    """

    heads: Mapping[str, int]
    token_heads: Mapping[str, int] = field(default_factory=dict)
    views: Any = None
    tokens: bool = False
    bank: BankSpec | None = None
    per_token: bool = False
    token_draws: int = 0
    neighbors: Neighbors | None = None
    word_head: Carried | None = None

    def __post_init__(self) -> None:
        """Leave out heads of width 0."""
        for kind in ("heads", "token_heads"):
            widths = {name: width for name, width in getattr(self, kind).items() if width}
            object.__setattr__(self, kind, widths)


@dataclass(frozen=True)
class ViewOutputs:
    """What the encoder makes of some samples' views.

    Attributes:
        embeddings: of b samples of v views.
        tokens: of the same views, [b, v, *shape, d], where the objective needs them: one grid for
            each run of views whose tokens have one shape.
        drawn: the arrays that the view recipe drew for these samples, such as which tokens a view
            hides: bytes on the device, others on the host, as `ViewRecipe.render` gets them.
    """

    embeddings: Float[Tensor, "b v e"]
    tokens: tuple[TokenGrid, ...] = ()
    drawn: tuple[Shaped[Tensor, "b ..."], ...] = ()


@runtime_checkable
class Objective(Protocol):
    """A self-supervised loss whose per-sample gradient becomes a feature."""

    name: ClassVar[str]

    @property
    def needs(self) -> Needs:
        """What it asks for, with these parameters."""

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Float[Tensor, ...] | None
    ) -> Float[Tensor, " b"]:
        """Return one loss a sample, differentiable in embeddings, and in tokens if it needs them.

        `bank` is what `reduce` made of the latents of other samples, where it needs one; with
        `needs.neighbors` it is [b, t, count, d], what each of a sample's tokens is nearest to.
        Several threads may call at once, with other samples.
        """


@runtime_checkable
class Undecided(Objective, Protocol):
    """An objective that leaves something to the encoder."""

    def decided(self, encoder: Encoder) -> tuple[Objective, str]:
        """Return the objective with what was left open, and what that is, in words ("": nothing).

        Raises:
            UsageError: it asks for what the encoder does not have.
        """


@runtime_checkable
class BankObjective(Objective, Protocol):
    """An objective that needs a bank."""

    def latents(self, views: ViewOutputs, heads: Heads) -> Float[Tensor, "b v d"]:
        """Return what some samples put into the bank."""

    def reduce(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, ...]:
        """Return the bank that all of its samples' latents make, as they are or as prototypes.

        A sample's latents follow each other; samples come in a random order that the seed decides.
        It is made of noise, too, where the rate of the work is measured before it, unless the
        objective is a `PlannedBank`.
        """


@runtime_checkable
class PlannedBank(BankObjective, Protocol):
    """An objective that knows beforehand what its bank will be: `reduce` takes long, or refuses."""

    def plan_bank(self, samples: int, width: int) -> BankPlan:
        """Return what the bank of so many samples will be, whose latents are so wide.

        Raises:
            UsageError: they are too few.
        """


@runtime_checkable
class StoppableBank(BankObjective, Protocol):
    """An objective whose `reduce` takes so long that it should be asked whether it may go on."""

    def reduce_asking(
        self, latents: Float[Tensor, "n d"], ask: Callable[[], None]
    ) -> Float[Tensor, ...]:
        """Return what `reduce` does, and call `ask` every few seconds: it raises to stop it."""


def project(
    embeddings: Float[Tensor, "... e"], head: nn.Linear | None, *, normalize: bool
) -> Float[Tensor, "... d"]:
    """Apply a head, after L2-normalising its input where the objective asks for it.

    Without a head (FUNGI, table 6) the loss is taken on that input itself: d is e.
    """
    if normalize:
        embeddings = nn.functional.normalize(embeddings, dim=-1)
    latents: Tensor = embeddings if head is None else head(embeddings)
    return latents


def distilled(
    student: Float[Tensor, "... v d"],
    teacher: Float[Tensor, "... g d"],
    student_temperature: float,
    teacher_temperature: float,
) -> tuple[Float[Tensor, "... v d"], Float[Tensor, "... g d"]]:
    """Return log p of a student's head outputs and q of a teacher's, through which nothing flows.

    Both are softmax distributions at a temperature (DINO, equation 1).
    """
    log_p = (student / student_temperature).log_softmax(dim=-1)
    return log_p, (teacher.detach() / teacher_temperature).softmax(dim=-1)


def require_head_dim(value: int, where: str) -> None:
    """Raise UsageError unless a head can have such a width; 0 means that there is no head."""
    require(value >= 0, where, "0 (no head) or more", value)
