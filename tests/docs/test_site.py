"""The pages as a site: whole, linked, with every command and public name, and without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

import pytest
from fungi_cli.main import app
from pages import CHECKOUT, PAGES
from typer.main import get_command

import fungistore

LONGEST_README = 130  # lines
API = sorted((CHECKOUT / "docs" / "api").glob("*.md"))
WRITTEN = [*PAGES, *API, CHECKOUT / "benchmarks" / "README.md", CHECKOUT / "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PROMISE = re.compile(r"(bit for bit|byte (by|for) byte|same bits|does not grow)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """What the site adds to the pages."""
    spec = importlib.util.spec_from_file_location("hooks", CHECKOUT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short() -> None:
    """What is longer is a page of docs/."""
    lines = (CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_README


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """As GitHub follows them: from file to file, and to a heading of it."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def anchors(page: Path) -> set[str]:
    """Return what GitHub and mkdocs call the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_that_promises_leads_to_the_tests(page: Path) -> None:
    """Whoever says "bit for bit" says where that is tried: docs/promises.md has the tests."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert not PROMISE.search(text) or page.stem == "promises" or "promises.md" in text


def test_every_page_is_in_the_navigation() -> None:
    """What nobody links nobody reads."""
    shown = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    docs = CHECKOUT / "docs"
    pages = [page.relative_to(docs).as_posix() for page in docs.rglob("*.md")]
    assert [page for page in pages if not re.search(rf"[ ]{page}$", shown, re.MULTILINE)] == []


def test_every_public_name_has_one_entry() -> None:
    """The reference has `fungistore.__all__`, each name under the name that users type."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in API)
    entries = re.findall(r"^::: fungistore\.(\w+)$", text, re.MULTILINE)
    assert sorted(entries) == sorted(fungistore.__all__)


def test_every_option_of_every_command_is_in_the_reference(hooks: ModuleType) -> None:
    """It is made of the live command line: sections, options with their help, examples."""
    page = hooks.commands()
    for name, command in hooks.walk("fungi", get_command(app)):
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for option in [option for parameter in command.params for option in parameter.opts]:
            assert not option.startswith("-") or f"`{option}`" in section
        assert "**Examples**\n\n```text\n" in section


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """In strict mode: every public name is in its inventory, and no page asks the web."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    inventory = (tmp_path / "site" / "objects.inv").read_bytes().split(b"\n", 4)[4]
    names = {line.split()[0].decode() for line in zlib.decompress(inventory).splitlines()}
    assert {f"fungistore.{name}" for name in fungistore.__all__} <= names
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(?:https?:)?//", text)
