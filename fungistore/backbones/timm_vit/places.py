"""Models that a hub's repository, or a folder, describes in timm's own config.json.

Gated repositories need the user's token (`hf auth login`), which huggingface_hub finds by itself.
"""

from __future__ import annotations

import timm
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path

from fungistore.backbones.hub import hub_asked_once
from fungistore.backbones.names import FOLDER, HUB
from fungistore.backbones.timm_vit.variants import Variant, keeps_head
from fungistore.errors import FungiError, UsageError


def read_place(name: str) -> Variant:
    """Return what a repository or folder says of its model: architecture, arguments, transform.

    Args:
        name: `hf-hub:ORG/NAME`, with `@REVISION` if need be, or `local-dir:FOLDER`.

    Raises:
        UsageError: the folder has no config, or it is not one of timm's models.
        FungiError: the repository cannot be read.
    """
    try:
        if name.startswith(FOLDER):
            found = load_model_config_from_path(name.removeprefix(FOLDER))
        else:
            with hub_asked_once():
                found = load_model_config_from_hf(name.removeprefix(HUB))
        config, architecture, arguments = found
    except Exception as error:  # a hub's library raises whatever it meets
        if not name.startswith(FOLDER):
            raise FungiError(
                "the model's config cannot be had",
                where=f"--model {name}",
                found=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                hint="check the name and the connection; of a gated repository ask for access on "
                "its page, and give your token with `hf auth login`",
            ) from error
        raise UsageError(
            "the folder has no model of timm's",
            where=f"--model {name}",
            expected="a config.json as timm writes it, beside model.safetensors",
            found=error,
        ) from error
    base, _, tag = str(architecture).partition(".")
    if not timm.is_model(base):
        raise UsageError(
            "the repository's model is none of timm's",
            where=f"--model {name}",
            expected="a config.json whose architecture is a name of timm's",
            found=architecture or "no architecture: other libraries' repositories have none",
            hint="--model ARCHITECTURE --weights FILE takes a file of weights",
        )
    published = f"{base}.{tag}" if tag and f"{base}.{tag}" in timm.list_pretrained() else base
    return Variant(
        base,
        keeps_head(published),
        f"{name}'s config",
        config=dict(config),
        arguments={key: value for key, value in (arguments or {}).items() if key != "num_classes"},
    )
