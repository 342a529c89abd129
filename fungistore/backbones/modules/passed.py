"""Modules passed in from Python: `fungi.Encoder(module, transform, name=...)`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fungistore.backbones.families import BackboneCard
from fungistore.errors import UsageError
from fungistore.names import NAME_RULE, is_plain_name

if TYPE_CHECKING:
    from fungistore.backbones.modules.encoder import ModuleEncoder, Output

FAMILY = "module"
_AT_HAND: dict[str, Encoder] = {}  # of this process, by name


class Encoder:
    """A torch module as a model: wherever a model is named, `encoder.model` names it.

        encoder = fungi.Encoder(net, transform, name="wheat-cells", target="blocks.11.attn.proj")
        options = fungi.ExtractOptions(model=encoder.model, features=("embeddings", "kl"))
        fungi.extract("images/", "wheat.fungi", options)

    A store remembers the name and a digest of the weights. The code of a module cannot be hashed:
    give another name to a module that computes something else with the same weights. Another
    process, which searches the store for one, makes an `Encoder` of the same name first. `dino`
    and `simclr` need a transform that says by which mean and deviation it normalises, as
    torchvision's `Normalize` does.

    Args:
        module: from images [n, 3, h, w] to embeddings [n, e], or maps [n, e, h, w], or (embeddings,
            grid [n, h, w, d]); it is set to evaluation mode and frozen.
        transform: from a PIL image to a tensor [3, h, w], normalised; of torchvision, timm, or any
            callable.
        name: of letters, digits and . _ + @ -.
        target: dotted name of the linear layer whose gradients are taken; default: the last
            attention's output projection, if the module has one.
        output: from what the module returns to what is said above, such as
            `lambda returned: returned.pooler_output`.

    Raises:
        UsageError: the name is taken by another module, or something cannot be used.
    """

    def __init__(
        self,
        module: Any,
        transform: Any,
        *,
        name: str,
        target: str | None = None,
        output: Output | None = None,
    ) -> None:
        if not is_plain_name(name):
            raise UsageError(
                "the module needs a plain name", where="name", expected=NAME_RULE, found=repr(name)
            )
        self._module: Any = module
        taken = _AT_HAND.get(name)
        if taken is not None and taken._module is not module:
            raise UsageError(
                "another module has this name",
                where="name",
                found=repr(name),
                hint="a store is told apart by names: give this one another",
            )
        self._transform, self._target, self._output = transform, target, output
        self.name = name
        self.load(None)
        _AT_HAND[name] = self

    @property
    def model(self) -> str:
        """What options and commands of this process call it."""
        return f"{FAMILY}:{self.name}"

    def __repr__(self) -> str:
        return f"<Encoder {self.model}: {type(self._module).__name__}>"

    def load(self, target: str | None) -> ModuleEncoder:
        """Return it as the stages take it, with another target layer if one is named.

        Raises:
            UsageError: transform, output or target layer cannot be used.
        """
        from fungistore.backbones.modules.encoder import module_encoder
        from fungistore.backbones.timm_vit.weights import digest_weights

        return module_encoder(
            self._module,
            self._transform,
            name=self.name,
            family=FAMILY,
            weights_hash=digest_weights(self._module.state_dict()),
            target_layer=target or self._target,
            output=self._output,
            remarks=("the module's code is not part of the fingerprint: its weights and name are",),
        )


class PassedModules:
    """The family of modules that this process has made an `Encoder` of."""

    modality: ClassVar[str] = "image"
    listed_by_name: ClassVar[bool] = True

    def load(
        self,
        name: str,
        *,
        weights: Path | None,
        image_size: int | None,
        target_layer: str | None,
        view_size: str | int,
    ) -> ModuleEncoder:
        """Return the encoder of that name.

        Raises:
            UsageError: this process has none, or settings are given that the module itself has.
        """
        if name not in _AT_HAND:
            raise UsageError(
                "the module is not at hand",
                where=f"--model {FAMILY}:{name}",
                expected=", ".join(sorted(_AT_HAND)) or "a module that this process was given",
                hint=f"in Python: fungi.Encoder(module, transform, name={name!r}) first, and no "
                "engine of several processes: the others have no such module",
            )
        if weights is not None or image_size is not None:
            raise UsageError(
                "a module that is passed in has its own weights and size",
                where=f"--model {FAMILY}:{name}",
                found="--weights" if weights is not None else f"--image-size {image_size}",
            )
        return _AT_HAND[name].load(target_layer)

    def find(self, pattern: str) -> list[str]:
        """Return no names: a list of models is of those that anybody has."""
        return []

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield the cards of modules that are at hand."""
        for name in names:
            encoder = self.load(
                name, weights=None, image_size=None, target_layer=None, view_size="model"
            )
            parameters = sum(one.numel() for one in encoder.module.parameters())
            yield BackboneCard(
                f"{FAMILY}:{name}",
                parameters,
                getattr(encoder, "image_size", None),
                getattr(encoder, "patch_size", None),
                encoder.embedding_dim,
                encoder.target_layer,
            )
