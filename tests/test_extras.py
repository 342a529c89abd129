"""What a message says to install is that alone, and fits a light environment."""

from __future__ import annotations

import shlex

import pytest

from fungistore.extras import install_command


@pytest.mark.parametrize(
    ("extra", "packages"),
    [
        ("pandas", ["pandas"]),
        ("mlflow", ["mlflow-skinny", "sqlalchemy", "alembic"]),
        ("none of ours", ["other"]),
        ("", ["other"]),
    ],
)
def test_an_extra_is_its_packages_and_not_ours(extra: str, packages: list[str]) -> None:
    """`fungistore[pandas]` would bring faiss-gpu beside faiss-cpu, which is never named."""
    words = shlex.split(install_command(extra, "other"))
    assert words[:2] == ["pip", "install"]
    assert [word.partition(">=")[0] for word in words[2:]] == packages
