"""The views of recordings: what is sent to an encoder of filter banks, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from fungistore.errors import UsageError
from fungistore.modalities.audio.filterbank import FilterBank
from fungistore.modalities.audio.recording import Recording
from fungistore.modalities.audio.rolls import noisy_rolls
from fungistore.modalities.requests import NoisyRolls
from fungistore.modalities.views import Drawn, DrawnBatch, Inputs, ViewGroup, ViewRecipe
from fungistore.randomness import Stream

Statistics = tuple[float, float]


@runtime_checkable
class TakesFilterBanks(Protocol):
    """What views of recordings need to know of an encoder."""

    @property
    def filter_bank(self) -> FilterBank:
        """What it is shown of a recording."""

    @property
    def frames(self) -> int:
        """How many of them it takes: fewer are followed by zeros, more are cut off."""

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation of the filter banks that it was trained on."""


@runtime_checkable
class MakesRolls(Protocol):
    """An encoder that has views of its own for noisy rolls, such as one whose lengths differ."""

    def rolled(self, request: NoisyRolls) -> ViewRecipe:
        """Return the views of a request."""


def audio_recipe(request: object, encoder: Any) -> ViewRecipe | None:
    """Return the recipe that a request becomes for an encoder, None where recordings have no such.

    Raises:
        UsageError: the encoder takes no filter banks.
    """
    if not isinstance(request, NoisyRolls):
        return None
    if isinstance(encoder, MakesRolls):
        return encoder.rolled(request)
    if not isinstance(encoder, TakesFilterBanks):
        raise UsageError(
            "the model takes no filter banks",
            where=f"--model {encoder.family}:{encoder.name}",
            expected="an encoder with a filter_bank, frames and statistics",
            hint="leave out simclr",
        )
    return RolledBanks(encoder.filter_bank, encoder.frames, encoder.statistics, request)


@dataclass(frozen=True)
class WholeBank:
    """One view: the filter banks of the recording, standardised."""

    filter_bank: FilterBank
    frames: int
    statistics: Statistics

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """One view of all frames."""
        return (ViewGroup(1, self.frames),)

    def on(self, device: torch.device) -> WholeBank:
        """Return the recipe itself: it suits every device."""
        return self

    def draw(self, item: Recording, random: Stream) -> Drawn:
        """Return the view [1, frames, bins], and how many frames the recording had."""
        bank = self.filter_bank(item)
        view = standardised(fitted(bank, self.frames), self.statistics)
        return view[None], np.array([len(bank)])

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        """Return [b, v, frames, bins]."""
        return (drawn[0][:, views],)

    def lengths(self, drawn: DrawnBatch) -> Float[Tensor, " b"]:
        """Return the frames of each recording, with those that were cut off."""
        return drawn[1][:, 0].float()


@dataclass(frozen=True)
class RolledBanks:
    """The views that `NoisyRolls` asks for."""

    filter_bank: FilterBank
    frames: int
    statistics: Statistics
    request: NoisyRolls

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """All views are of one size."""
        return (ViewGroup(self.request.count, self.frames),)

    def on(self, device: torch.device) -> RolledBanks:
        """Return the recipe itself: it suits every device."""
        return self

    def draw(self, item: Recording, random: Stream) -> Drawn:
        """Return the views [count, frames, bins].

        What follows a short recording has noise on it and is rolled as well, as in the reference.
        """
        bank = fitted(self.filter_bank(item), self.frames)
        if self.request.noise_before:
            views = noisy_rolls(bank, self.request, random)
            return (standardised(views, self.statistics),)
        return (noisy_rolls(standardised(bank, self.statistics), self.request, random),)

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        """Return [b, v, frames, bins]."""
        return (drawn[0][:, views],)


def fitted(bank: Float32[np.ndarray, "n bins"], frames: int) -> Float32[np.ndarray, "frames bins"]:
    """Return filter banks cut, or followed by zeros, to some number of frames."""
    kept = bank[:frames]
    return np.pad(kept, ((0, frames - len(kept)), (0, 0)))


def standardised(
    banks: Float32[np.ndarray, "*any"], statistics: Statistics
) -> Float32[np.ndarray, "*any"]:
    """Return (banks - mean) / (2 deviation), as AST has it: halves, so that most lie within 1."""
    mean, deviation = statistics
    return ((banks - np.float32(mean)) / np.float32(2 * deviation)).astype(np.float32)
