"""Names: what may be a folder of a store, and what is another program's."""

from __future__ import annotations

import pytest

from fungistore.errors import UsageError
from fungistore.names import is_foreign, is_plain_name, refuse_odd_name


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_dinov2.lvd142m", "a", "embeddings+kl-cosine", "C", "cc", "7", "a.b"]
)
def test_plain_names(name: str) -> None:
    """Names of models, and those that commands make up."""
    assert is_plain_name(name)
    assert not is_foreign(name)
    refuse_odd_name(name, "--name")


@pytest.mark.parametrize(
    "name",
    [
        *("", "a/b", ".hidden", "a b", "x" * 129, "a.json", "a.partial", "é"),
        "c",  # zarr's folder of chunks
        *("Thumbs.db", "thumbs.db", "desktop.ini", "lost+found", "ehthumbs.db"),  # never listed
    ],
)
def test_odd_names_are_refused(name: str) -> None:
    """What a system, zarr or the store itself gives a meaning: such a set would not be listed."""
    with pytest.raises(UsageError, match="--name"):
        refuse_odd_name(name, "--name")
