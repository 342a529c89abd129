"""Models of torch.hub repositories that are folders here: `hub:FOLDER:ENTRY`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fungistore.backbones.families import BackboneCard
from fungistore.errors import FungiError, UsageError

if TYPE_CHECKING:
    from fungistore.backbones.modules.encoder import ModuleEncoder

FAMILY = "hub"
HUBCONF = "hubconf.py"
USUAL_SIZE = 224
MARGIN = 256 / 224  # the usual transform resizes to a little more, and cuts the centre out


class HubFamily:
    """Entries of a repository's hubconf.py. Loading one runs its code, with `--trust-code` alone.

    What it returns must map images to embeddings. torch.hub says nothing of transforms, so images
    are brought to 224 pixels, or --image-size, bicubic, and normalised by ImageNet's statistics.
    """

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
        """Run the entry of a repository, and return its module.

        Raises:
            UsageError: there is no such folder or entry, or what it returns cannot be used.
            FungiError: its code has failed.
        """
        import torch

        from fungistore.backbones.checkpoints import read_checkpoint
        from fungistore.backbones.modules.encoder import module_encoder
        from fungistore.backbones.timm_vit.weights import digest_weights

        folder, _, entry = name.rpartition(":")
        if not entry or not Path(folder, HUBCONF).is_file():
            raise UsageError(
                "this is no torch.hub repository",
                where=f"--model {FAMILY}:{name}",
                expected=f"{FAMILY}:FOLDER:ENTRY, with a {HUBCONF} in FOLDER",
                hint="clone the repository, and name the folder",
            )
        try:
            own = {} if weights is None else {"pretrained": False}  # a file replaces them
            module = torch.hub.load(folder, entry, source="local", **own)
        except Exception as error:  # another repository's code
            if "Cannot find callable" in str(error):
                raise UsageError(
                    "the repository has no such entry",
                    where=f"--model {FAMILY}:{name}",
                    found=entry,
                    hint=f"{HUBCONF} in the folder defines the entries",
                ) from error
            raise FungiError(
                "the repository's code has failed",
                where=f"--model {FAMILY}:{name}",
                found=f"{type(error).__name__}: {error}",
                hint="a module that you build yourself goes in from Python: fungi.Encoder(module, "
                "transform, name=...)",
            ) from error
        if not isinstance(module, torch.nn.Module):
            raise UsageError(
                "the entry returns no module",
                where=f"--model {FAMILY}:{name}",
                found=type(module).__name__,
            )
        left_out: tuple[str, ...] = ()
        if weights is not None:
            stored = read_checkpoint(weights)
            left_out = stored.left_out
            _fill(module, dict(stored.tensors), weights)
        said = f"; left out: {', '.join(left_out)}" if left_out else ""
        return module_encoder(
            module,
            _transform(image_size or USUAL_SIZE),
            name=entry,
            family=FAMILY,
            weights_hash=digest_weights(module.state_dict()),
            target_layer=target_layer,
            crops_centre=True,
            remarks=(
                "warning: torch.hub says nothing of transforms: ImageNet's is taken, "
                f"{image_size or USUAL_SIZE} px{said}",
            ),
        )

    def find(self, pattern: str) -> list[str]:
        """Return no names: repositories are where they are."""
        return []

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield nothing: a card would run a repository's code."""
        yield from ()


def _fill(module: Any, state: dict[str, Any], weights: Path) -> None:
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UsageError(
            "the weights do not fit the model",
            where=f"--weights {weights}",
            found=" ".join(str(error).split())[:300],
        ) from error


def _transform(size: int) -> Any:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(round(size * MARGIN), transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ]
    )
