"""Encoders of images and texts in one space, as CLIP's: what a family of them offers beside `load`.

An image side alone is an `Encoder`; its embeddings are compared with what the text side makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fungistore.backbones.encoder import Encoder
from fungistore.fingerprint import Config


class TextTower(Protocol):
    """The text side of a joint encoder, frozen."""

    @property
    def dim(self) -> int:
        """Width E of the joint space."""

    def on(self, device: torch.device) -> TextTower:
        """Return the tower on a device."""

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        """Return the embeddings of some texts in float32, on the device, not normalised.

        Texts beyond the tower's length are cut, as its tokenizer does.
        """

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many of some texts are too long, and so cut."""

    def identity(self) -> Config:
        """Return what decides the embeddings, JSON-ready."""


@dataclass(frozen=True)
class JointEncoder:
    """Both sides of one checkpoint.

    Attributes:
        name: what `--text-model` takes.
        images: the image side.
        texts: the text side.
    """

    name: str
    images: Encoder
    texts: TextTower


@runtime_checkable
class JointFamily(Protocol):
    """A family whose models have a text side."""

    def load_joint(self, name: str, *, weights: Path | None) -> JointEncoder:
        """Return both sides of a model, on the CPU, in float32.

        Args:
            name: without the family's.
            weights: a file; None: the family's own for that name.

        Raises:
            UsageError: name or weights cannot be used.
            FungiError: the weights could not be had.
        """

    def joint_name(self, family: str, name: str) -> str | None:
        """Return its name of the model whose image side is another family's; None: not known."""
