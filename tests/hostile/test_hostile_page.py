"""The search page of a store whose names and labels are HTML: parsed, it is what it should be."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from hostile_world import NAMES, fungi, store_of
from PIL import Image

PAYLOADS = [
    *NAMES.values(),
    "<img src=x onerror=alert(1)>",
    "\"><script>alert(1)</script><a href='javascript:alert(1)'>x</a>",
    "' onmouseover='alert(1)",
    "</title></style></section><iframe src=//evil>",
    "<!-- ",
    "<![CDATA[ x ]]>",
    "&lt;b&gt;&#x3c;script&#x3e;",
    "{{7*7}}${7*7}",
    "data:text/html,<script>alert(1)</script>",
]
TAGS = {"html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "section", "div"}
TAGS |= {"ol", "li", "span", "img", "b", "bdi"}
ATTRIBUTES = {"lang", "charset", "name", "content", "class", "title", "loading", "src", "alt"}


class Strict(HTMLParser):
    """Collects text, and refuses every tag and attribute that the page has no use for."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attributes:
            assert name in ATTRIBUTES, (tag, name, value)
            if name == "src":
                assert (value or "").startswith("data:image/jpeg;base64,"), value
                self.images += 1
            if name == "alt":
                self.texts.append(value or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")


@pytest.fixture
def page(tmp_path: Path) -> str:
    """A page on which each payload is an id, a label, a query that fails, and in the store's path.

    Half of the samples have images, so that payloads are `alt` texts too.
    """
    names = [name.encode(errors="replace").decode() for name in PAYLOADS]
    folder = tmp_path / "<b onclick=x>&'\"" / "s.fungi"
    folder.parent.mkdir()
    picture = tmp_path / "p.jpg"
    Image.new("RGB", (9, 9)).save(picture)
    store = store_of(folder, names, names[::-1])
    manifest = store.root / "store.json"
    manifest.write_text(manifest.read_text().replace('"/nowhere"', f'"{tmp_path}"'))
    for name in names[::2]:
        if "/" not in name:
            (tmp_path / name).write_bytes(picture.read_bytes())
    assert fungi("index", folder).exit_code == 0
    asked = [name for name in names if not name.startswith("-")]
    missing = [f"no {name}" for name in names]
    done = fungi("search", folder, *asked, *missing, "--html", tmp_path / "p.html", "--k", 50)
    assert done.exit_code == 3, done.stderr
    return (tmp_path / "p.html").read_bytes().decode()  # with its carriage returns


def test_the_page_has_only_the_tags_and_attributes_that_it_should(page: str) -> None:
    """Each payload is text: in headings, labels, lists of failures, `alt` and the title."""
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.images > 100
    shown = "\n".join(parser.texts)
    for name in PAYLOADS:
        text = name.encode(errors="replace").decode()
        assert f"no {text}" in shown, text
        assert shown.count(text) > 10, text
    assert "<b onclick=x>&'\"" in shown
