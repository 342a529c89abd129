"""Where a model of transformers is: a directory here, or one that is fetched from the model hub."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from fungistore.backbones.hub import hub_asked_once
from fungistore.errors import FungiError, UsageError
from fungistore.extras import install_command

WANTED = ("*.json", "*.txt", "*.model", "*.codes", "*.safetensors")  # no pickles, and no code
CONFIG = "config.json"
BESIDE = {"audio": ("soundfile", "soxr")}  # what an extra has beside transformers
_OF_THE_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")


def require_transformers(extra: str, model: str) -> None:
    """Refuse a model of transformers where that, or what decodes its items, is not installed.

    Raises:
        UsageError: it is not; the error names the extra that brings it.
    """
    needed = ("transformers", *BESIDE.get(extra, ()))
    for package in needed:
        try:
            import_module(package)
        except (ImportError, OSError) as error:  # OSError: soundfile without its library
            raise UsageError(
                f"models of this family need {' and '.join(needed)}",
                where=f"--model {model}",
                expected=f"the extra fungistore[{extra}]",
                found=f"no {package}: {error}",
                hint=install_command(extra, package),
            ) from error


def model_folder(name: str, family: str) -> Path:
    """Return the directory of a model: the one of that path, or what the hub has by that name.

    Raises:
        UsageError: the directory holds no model, or pickled weights alone.
        FungiError: the hub cannot be reached, or does not have it.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _fetched(name, family)
    if not (folder / CONFIG).is_file():
        raise UsageError(
            "the directory holds no model of transformers",
            where=folder,
            expected=f"{CONFIG}, weights as safetensors, and what cuts or prepares its inputs",
        )
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(file.name for file in folder.glob("*.bin"))) or "no weights"
        raise UsageError(
            "the model's weights are not safetensors, and pickles may run code",
            where=folder,
            expected="*.safetensors",
            found=found,
            hint="convert them where you trust them: AutoModel.from_pretrained(FOLDER)"
            ".save_pretrained(NEW)",
        )
    return folder


def read_json(folder: Path, name: str, kind: type = dict) -> Any:
    """Return a file of a model's directory; {} or [] where it is not there.

    Raises:
        UsageError: it is no JSON, or none of that kind.
    """
    path = folder / name
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_such = isinstance(content, kind)
        flaw = "" if is_such else f"a {type(content).__name__}, no {kind.__name__}"
    except ValueError as error:
        flaw = str(error)
    if flaw:
        raise UsageError(
            "a file of the model is no JSON",
            where=path,
            found=flaw,
            hint="download the model again",
        )
    return content


def called(name: str) -> str:
    """Return what a model is called: of a directory, its own name."""
    folder = Path(name).expanduser()
    return folder.absolute().name if folder.is_dir() else name


def _fetched(name: str, family: str) -> Path:
    from huggingface_hub import snapshot_download

    if not _OF_THE_HUB.fullmatch(name):
        raise UsageError(
            "there is no such directory",
            where=f"--model {family}:{name}",
            expected="the directory of a model of transformers, or its name on the model hub",
            hint="if it has moved: --weights FOLDER",
        )
    try:
        with hub_asked_once():
            return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # the hub's library raises whatever its transport raises
        raise FungiError(
            "the model cannot be had",
            where=f"--model {family}:{name}",
            found=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            hint="check the name and the connection; or give a directory that has the model",
        ) from error
