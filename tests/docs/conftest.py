"""A shell for pages and examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from reader import MODEL, Shell, quick_shell

# Of the examples of `fungi extract --help`; the pages have one model.
MODELS = [
    MODEL,
    "deit_tiny_patch16_224.fb_in1k",
    "vit_base_patch14_dinov2.lvd142m",
    "vit_base_patch16_224.dino",
]


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Commands that take a moment each."""
    shell, server = quick_shell(tmp_path_factory.mktemp("shell"), MODELS)
    yield shell
    server.terminate()  # its standard input may be held open by a process that was forked here
    server.communicate()
