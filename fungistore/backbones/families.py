"""Families of encoders by name, and the encoder that `--model` means.

`--model NAME` is timm's, `--model FAMILY:NAME` another family's. A plug-in adds a family as an
entry point of the group "fungistore.backbones".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from fungistore.backbones.names import HUB, canonical, is_place
from fungistore.errors import UsageError
from fungistore.registry import Registry

if TYPE_CHECKING:  # what tells a family's modality must not import torch
    from fungistore.backbones.encoder import Encoder

TIMM, HUB_FAMILY = "timm", "hub"
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})
LONGEST_NAME = 128  # of a feature set

FAMILIES = Registry(
    "backbone family",
    "fungistore.backbones",
    {
        TIMM: "fungistore.backbones.timm_vit.family:TimmFamily",
        "torchvision": "fungistore.backbones.torchvision_models.family:TorchvisionFamily",
        "open_clip": "fungistore.backbones.open_clip.family:OpenClipFamily",
        "hub": "fungistore.backbones.modules.hub:HubFamily",
        "module": "fungistore.backbones.modules.passed:PassedModules",
        "text": "fungistore.backbones.texts.family:TextFamily",
        "audio": "fungistore.backbones.audio.family:AudioFamily",
    },
)


@dataclass(frozen=True)
class BackboneCard:
    """One line of the catalogue.

    Attributes:
        name: what `--model` takes.
        parameters: how many.
        image_size: pixels a side; None where the encoder takes no images.
        patch_size: pixels a side; None as above.
        embedding_dim: width of the embedding.
        target_layer: the default; None where there is none.
        modality: of the items that it takes.
    """

    name: str
    parameters: int
    image_size: int | None
    patch_size: int | None
    embedding_dim: int
    target_layer: str | None
    modality: str = "image"


class LoadSettings(TypedDict):
    """What `Family.load` gets beside a name, for families that hand it on as it is."""

    weights: Path | None
    image_size: int | None
    target_layer: str | None
    view_size: str | int


class Family(Protocol):
    """Encoders of one kind. Made without arguments; imports no torch before it is asked.

    One whose list takes seconds, or is long, may say so by an attribute `listed_by_name`: True;
    then `fungi models` asks it for names after `FAMILY:` alone. One that takes further settings,
    such as `pooling`, names them in an attribute `own_settings`; it gets those that are given.
    """

    @property
    def modality(self) -> str:
        """Name of the modality whose items its encoders take."""

    def load(
        self,
        name: str,
        *,
        weights: Path | None,
        image_size: int | None,
        target_layer: str | None,
        view_size: str | int,
        **own_settings: Any,
    ) -> Encoder:
        """Return an encoder, on the CPU, in float32.

        Args:
            name: without the family's.
            weights: a file; None: the family's own for that name.
            image_size: side of the input in pixels; others than images refuse it.
            target_layer: dotted name of a linear layer; None: the family's default.
            view_size: "model", or that other sizes than the encoder's own will come too.
            own_settings: those that it names, where they are given.

        Raises:
            UsageError: name, size, target layer or weights cannot be used.
            FungiError: the weights could not be had.
        """

    def find(self, pattern: str) -> list[str]:
        """Return the names that match a shell pattern or contain it."""

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield a card for each name, downloading nothing."""


def split_model(model: str) -> tuple[str, str]:
    """Return the family and the name in it that `--model` means.

    Raises:
        UsageError: there is no such family here.
    """
    model = canonical(model)
    family, colon, name = model.partition(":")
    if not colon or is_place(model):
        return TIMM, model
    if family not in FAMILIES:
        raise UsageError(
            "unknown backbone family",
            where=f"--model {model}",
            expected=f"a name of timm's, or FAMILY:NAME with FAMILY {' or '.join(FAMILIES)}",
            found=family,
            hint="fungi models lists names; a file of your own goes with --weights",
        )
    return family, name


def spelled_model(model: str) -> str:
    """Return a model's name for a message: with the one it has here, where that is another."""
    here = canonical(model)
    return model if here == model else f"{here}, which {model} is"


def refuse_untrusted(model: str, *, trusted: bool) -> None:
    """Refuse a model whose loading runs code of a repository, unless the user has allowed it.

    Raises:
        UsageError: it does, and nobody has.
    """
    if split_model(model)[0] == HUB_FAMILY and not trusted:
        raise UsageError(
            "the model is code of a repository, which would run here",
            where=f"--model {model}",
            expected="--trust-code, where you trust the repository",
            hint="weights alone need no trust: --model ARCHITECTURE --weights FILE",
        )


def find_family(name: str) -> Family:
    """Return the family of that name."""
    family: Family = FAMILIES.choose(name, "--model")()
    return family


def modality_of(model: str) -> str:
    """Return the name of the modality whose items a model takes, without loading it."""
    family, _ = split_model(model)
    return find_family(family).modality


def feature_set_of(model: str, adapter: str | None = None) -> str:
    """Return the name of the feature set that a model's features have unless told otherwise.

    Those of an adapted one have the adaptation's name behind it.
    """
    family, name = split_model(model)
    if Path(name).is_absolute():  # of a directory, its own name
        name = Path(name).name
    spelled = name if family == TIMM else f"{family}:{name}"
    if adapter is not None:
        spelled = f"{spelled}-{Path(adapter).name}"
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", spelled.removeprefix(HUB)).strip("-.")
    return plain[-LONGEST_NAME:].lstrip("-.+") or family


def absolute_model(model: str) -> str:
    """Return a model whose name is a directory here with the directory's whole path."""
    family, colon, name = model.partition(":")
    is_known = colon and family in FAMILIES and Path(name).expanduser().is_dir()
    return f"{family}:{Path(name).expanduser().absolute()}" if is_known else model


def absolute_adapter(adapter: object) -> object:
    """Return an adaptation's folder as a whole path; a name, of one in a store, as it is."""
    if isinstance(adapter, Path) or (isinstance(adapter, str) and adapter != Path(adapter).name):
        return str(Path(adapter).expanduser().absolute())
    return adapter


def load_backbone(
    model: str,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    target_layer: str | None = None,
    view_size: str | int = "model",
    own_settings: Mapping[str, Any] = NO_SETTINGS,
) -> Encoder:
    """Return the encoder that `--model` means; see `Family.load`.

    `own_settings` are for families that name them, such as {"pooling": "mean"}.

    Raises:
        UsageError: the model's family has no such setting.
    """
    family, name = split_model(model)
    found = find_family(family)
    known = getattr(found, "own_settings", ())
    for setting, value in own_settings.items():
        if setting not in known:
            raise UsageError(
                f"models of the family {family} have no such setting",
                where=f"--{setting.replace('_', '-')} {value}",
                found=f"--model {model}",
                hint=f"leave it out: it is for {_families_with(setting)}",
            )
    return found.load(
        name,
        weights=None if weights is None else Path(weights),
        image_size=image_size,
        target_layer=target_layer,
        view_size=view_size,
        **own_settings,
    )


def _families_with(setting: str) -> str:
    known = (f for f in FAMILIES.own if setting in getattr(find_family(f), "own_settings", ()))
    return " and ".join(known)
