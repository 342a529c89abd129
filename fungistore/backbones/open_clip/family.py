"""The family of open_clip's models; imports that package, and torch, only where it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Unpack

from fungistore.backbones.families import TIMM, BackboneCard, LoadSettings

if TYPE_CHECKING:
    from fungistore.backbones.encoder import Encoder
    from fungistore.backbones.joint import JointEncoder


class OpenClipFamily:
    """open_clip's models: `ARCHITECTURE/TAG`, or `ARCHITECTURE` with a file of weights.

    Also `hf-hub:ORG/NAME` and `local-dir:FOLDER`, as open_clip itself takes them.
    """

    modality: ClassVar[str] = "image"
    listed_by_name: ClassVar[bool] = True

    def load(self, name: str, **settings: Unpack[LoadSettings]) -> Encoder:
        """Build the image side of a model; see `load_images`."""
        from fungistore.backbones.open_clip.loading import load_images

        return load_images(name, **settings)

    def load_joint(self, name: str, *, weights: Path | None) -> JointEncoder:
        """Build both sides of a model; see `load_both`."""
        from fungistore.backbones.open_clip.loading import load_both

        return load_both(name, weights=weights)

    def joint_name(self, family: str, name: str) -> str | None:
        """Return the name of the model whose image side timm has under a name."""
        if family != TIMM or find_spec("open_clip") is None:
            return None
        from fungistore.backbones.open_clip.loading import joint_of_timm

        return joint_of_timm(name)

    def find(self, pattern: str) -> list[str]:
        """Return the names with their tags; none where open_clip is not installed."""
        if find_spec("open_clip") is None:
            return []
        import open_clip

        if not any(mark in pattern for mark in "*?["):
            pattern = f"*{pattern}*"
        names = (f"{model}/{tag}" for model, tag in open_clip.list_pretrained())
        return [name for name in names if fnmatch(name, pattern)]

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield cards; a model is built on the meta device for each architecture."""
        from fungistore.backbones.open_clip.loading import describe

        return map(describe, names)
