"""The file of --config."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from fungistore.errors import UsageError
from fungistore.text import read_text


def read_config(path: Path) -> dict[str, Any]:
    """Read a TOML or JSON configuration file.

    Raises:
        UsageError: it is missing or malformed.
    """
    try:
        text = read_text(path)
        config: dict[str, Any] = (
            json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        )
        if not isinstance(config, dict):
            raise ValueError("a list or a value instead of named settings")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            "the configuration cannot be read",
            where=f"--config {path}",
            expected="a TOML or JSON file",
            found=error,
        ) from error
    return config
