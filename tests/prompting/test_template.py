"""Templates: fields are replaced once, nothing is run, and mistakes are named."""

from __future__ import annotations

import json

import pytest
from fungi_cli.main import app
from prompt_world import news
from typer.testing import CliRunner

from fungistore.errors import UsageError
from fungistore.prompting.items import Item
from fungistore.prompting.template import open_template, parse_template

TINY = "Of {labels}.\n{examples}\n{text} -> {label}\n{end}\n{query} ->"


def item(text, label=None):
    return Item("i", label, text, "u")


def test_the_built_in_prompt_has_task_labels_examples_and_query():
    """Laid out as pairs of text and label, and open where the answer is to stand."""
    template = open_template(None)
    prompt = template.fill(["bad", "good"], [item("dull", "bad"), item("fine", "good")], item("so"))
    assert "\nbad\ngood\n" in prompt
    assert "Text: dull\nLabel: bad\n\nText: fine\nLabel: good\n\n" in prompt
    assert prompt.endswith("Text: so\nLabel:")


def test_texts_are_never_looked_into():
    """Braces, fields, format specifications and backslashes in texts and labels stay."""
    odd = "{query} {0} {label!r:>10} {{text}} {__class__} %s \\1 $x }{"
    template = parse_template(TINY, "t")
    prompt = template.fill([odd], [item(odd, odd)], item(odd))
    assert prompt == f"Of {odd}.\n{odd} -> {odd}\n{odd} ->"


def test_braces_of_a_template_that_are_no_field_stay():
    """JSON in it, and a doubled field, which stands for itself."""
    text = '{"a": {}}\n{examples}\n{"text": {text}, "label": {label}}\n{end}\n{{query}} {query}'
    prompt = parse_template(text, "t").fill([], [item("x", "y")], item("q"))
    assert prompt == '{"a": {}}\n{"text": x, "label": y}\n{query} q'


@pytest.mark.parametrize(
    ("text", "what", "expected"),
    [
        ("{query}", "does not say what an example", "{examples}"),
        ("{end}\n{examples}\n{query}", "does not say what an example", "{end}"),
        (TINY + "\n{examples}", "does not say what an example", "one line"),
        (TINY.replace("{query}", "{text}"), "unknown here", "{labels}, {query}"),
        (TINY.replace("{text}", "{query}"), "unknown here", "{text}, {label}, {id}"),
        (TINY.replace("{labels}", "{label_list}"), "unknown here", "{labels}, {query}"),
        (TINY.replace("{query}", ""), "lacks a field outside", "{query}"),
        (TINY.replace("{text}", ""), "lacks a field in the example", "{text}"),
        (TINY.replace("{label}\n", "\n"), "lacks a field in the example", "{label}"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(text, what, expected):
    """Unknown fields name the known ones; missing ones and missing places are named."""
    with pytest.raises(UsageError, match=what) as caught:
        parse_template(text, "--template t.txt")
    assert expected in str(caught.value.expected)
    assert caught.value.where == "--template t.txt"


def test_a_file_is_a_template_in_any_utf_and_with_any_line_ends(tmp_path):
    """What cannot be read is named."""
    for number, data in enumerate((TINY.replace("\n", "\r\n").encode(), TINY.encode("utf-16"))):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(data)
        assert open_template(path) == parse_template(TINY, "t")
    (tmp_path / "odd.txt").write_bytes(b"\xff\x00\x01\xfe\xff")
    for name in ("missing.txt", "odd.txt", "."):
        with pytest.raises(UsageError, match="template cannot be read"):
            open_template(tmp_path / name)


def test_prompts_come_from_the_command(tmp_path):
    """A line each with id and label; long texts are cut, and the cut shows."""
    store, file = news(tmp_path / "n.fungi"), tmp_path / "t.txt"
    file.write_text(TINY + "\n")
    words = ["--k", "2", "--format", "prompts", "--template", str(file), "--max-characters", "9"]
    run = CliRunner().invoke(app, ["retrieve", str(store.root), *words])
    assert run.exit_code == 0, run.stderr
    first = json.loads(run.stdout.splitlines()[0])
    assert (first["id"], first["label"]) == ("t0030", "sport")
    assert first["prompt"].startswith("Of food\nsport\nweather.\nreport ")
    assert first["prompt"].endswith("report 30 ... ->")
