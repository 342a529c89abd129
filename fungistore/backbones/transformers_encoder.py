"""What encoders of the transformers library share, whatever their modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.machine.compiling import compile_for_shapes


@dataclass(eq=False, kw_only=True)
class TransformersEncoder(ABC):
    """A frozen module of transformers, and the layer whose gradients are taken.

    Attributes:
        name: its name in the family.
        module: in evaluation mode.
        target_layer: the layer whose per-sample gradient is taken; None: none is.
        candidates: layers that may be differentiated, for who has to name one.
        weights_hash: digest of the weights as they were stored.
        config_hash: digest of what else decides what the module computes.
        said: what the user should know of the model.
    """

    name: str
    module: Any
    target_layer: str | None
    candidates: Sequence[str]
    weights_hash: str
    config_hash: str
    said: tuple[str, ...] = ()
    dtype: torch.dtype = field(default=torch.float32, init=False)

    family: ClassVar[str]
    items: ClassVar[str]  # what it takes, as messages call it
    is_thread_safe: ClassVar[bool] = True

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList | None:
        """The transformer's blocks in line; None where they are not known."""

    @property
    @abstractmethod
    def before_blocks(self) -> Iterable[nn.Module]:
        """What runs before them."""

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding, and of a token."""
        return int(self.module.config.hidden_size)

    @property
    def token_dim(self) -> int:
        """Width of a token."""
        return self.embedding_dim

    @property
    def target(self) -> nn.Linear | nn.Conv2d | None:
        """The target layer itself."""
        if self.target_layer is None:
            return None
        layer: nn.Linear = self.module.get_submodule(self.target_layer)
        return layer

    @property
    def exact_from(self) -> nn.Module | None:
        """The last block, where the target layer is in it."""
        if self.blocks is None:
            return None
        last = self.blocks[-1]
        is_last = self.target is None or any(one is self.target for one in last.modules())
        return last if is_last else None

    def of_the_model(self) -> Config:
        """Return what of the identity says which model it is, and with which weights."""
        return {
            "family": self.family,
            "model": type(self.module).__name__,
            "weights": self.weights_hash,
            "config": self.config_hash,
        }

    def prepare_trunk(self, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Make all that runs before the last block fast, in place.

        Raises:
            UsageError: it is int8.
        """
        if dtype == torch.int8:
            raise UsageError(
                f"{self.items} have no trunk of eight bits",
                where=f"--dtype int8, --model {self.family}:{self.name}",
                expected="float32, bfloat16 or float16",
                hint="--dtype bfloat16 where the CPU or GPU multiplies it fast",
            )
        if self.blocks is None or self.exact_from is None:
            return
        for part in (*self.before_blocks, *self.blocks[:-1]):
            part.to(dtype)
        for block in self.blocks[:-1] if compiled else ():
            compile_for_shapes(block)
        self.dtype = dtype
