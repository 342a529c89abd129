"""What objectives leave to the encoder, decided once it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fungistore.backbones.encoder import Encoder
from fungistore.backbones.word_head import carried_head
from fungistore.errors import UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.objectives.objective import Undecided
from fungistore.objectives.views import recipe_of


def with_decided(
    options: ExtractOptions, features: Iterable[str], encoder: Encoder
) -> tuple[ExtractOptions, tuple[str, ...]]:
    """Return options whose objectives leave nothing open, and what was decided, in words.

    Args:
        options: what the user asked for.
        features: those that are gradients.
        encoder: that they are of, in float32.

    Raises:
        UsageError: an objective asks for what the encoder does not have, or its modality not.
    """
    objectives, said = dict(options.objectives), []
    for name in features:
        objective = objectives[name]
        if isinstance(objective, Undecided):
            objectives[name], words = objective.decided(encoder)
            said += [words] if words else []
        which = objectives[name].needs.word_head
        if which is not None and carried_head(encoder, which) is None:
            recipe_of(objectives[name], encoder, options.view_size)  # no head helps without views
            raise UsageError(
                "the weights carry no such head of words",
                where=f"--set {name}.head={which}",
                expected="a masked language model's, as BertForMaskedLM's; or word embeddings as "
                "wide as a token",
                found=f"{encoder.family}:{encoder.name}",
                hint=f"--set {name}.head=random",
            )
    if objectives == options.objectives:
        return options, tuple(said)
    return replace(options, objectives=objectives), tuple(said)
