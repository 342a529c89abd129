"""Templates of prompts: text with a few fields, which are replaced and never run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fungistore.errors import UsageError
from fungistore.prompting.items import Item
from fungistore.text import read_text

FIELD = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")
BEGIN, END = "{examples}", "{end}"
AROUND, INSIDE = ("labels", "query"), ("text", "label", "id")
LABELLED_TEXT = """\
Assign a label to the last text. It is one of these:
{labels}

Some texts that are like it, with their labels:

{examples}
Text: {text}
Label: {label}

{end}
Reply with the label of this text alone.

Text: {query}
Label:"""


@dataclass(frozen=True)
class Template:
    """A prompt's text before it is filled in.

    Attributes:
        before: what stands before the examples.
        example: what is said of each.
        after: what stands behind them.
    """

    before: str
    example: str
    after: str

    def fill(self, labels: Sequence[str], examples: Sequence[Item], query: Item) -> str:
        """Return a prompt; what looks like a field in a text or a label stays as it is."""
        around = {"labels": "\n".join(labels), "query": query.text or ""}
        said = "".join(
            _filled(
                self.example,
                {"text": one.text or "", "label": one.label or "", "id": one.id},
            )
            for one in examples
        )
        return _filled(self.before, around) + said + _filled(self.after, around)


def open_template(path: Path | None) -> Template:
    """Return the template of a file; of None, the one for labelled texts.

    Raises:
        UsageError: the file cannot be read, or is no template.
    """
    if path is None:
        return parse_template(LABELLED_TEXT, "the template")
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise UsageError(
            "the template cannot be read", where=f"--template {path}", found=found
        ) from error
    return parse_template(text.removesuffix("\n"), f"--template {path}")


def parse_template(text: str, where: str) -> Template:
    """Return a text as a template.

    Raises:
        UsageError: a field is unknown or missing, or the example's place is.
    """
    lines = [line.strip() for line in text.split("\n")]
    if lines.count(BEGIN) != 1 or lines.count(END) != 1 or lines.index(BEGIN) > lines.index(END):
        raise UsageError(
            "the template does not say what an example looks like",
            where=where,
            expected=f"one line {BEGIN} and then one line {END}, and between them what is said of "
            "each example: Text: {text} Label: {label}",
            found=f"{lines.count(BEGIN)} and {lines.count(END)} of them",
        )
    whole = text.split("\n")
    begin, end = lines.index(BEGIN), lines.index(END)
    before, example = (
        "".join(f"{line}\n" for line in part) for part in (whole[:begin], whole[begin + 1 : end])
    )
    template = Template(before, example, "\n".join(whole[end + 1 :]))
    around = _fields(template.before, AROUND, where) | _fields(template.after, AROUND, where)
    inside = _fields(template.example, INSIDE, where)
    for name, found, place in (
        ("query", around, "outside of the example"),
        ("text", inside, "in the example"),
        ("label", inside, "in the example"),
    ):
        if name not in found:
            raise UsageError(
                f"the template lacks a field {place}", where=where, expected=f"{{{name}}}"
            )
    return template


def _fields(text: str, known: Sequence[str], where: str) -> set[str]:
    found = {field[2] for field in FIELD.finditer(text) if field[2]}
    if unknown := sorted(found - set(known)):
        raise UsageError(
            "the template has a field that is unknown here",
            where=where,
            expected=", ".join(f"{{{name}}}" for name in known),
            found=", ".join(f"{{{name}}}" for name in unknown),
            hint=f"{{{{{unknown[0]}}}}} stands for {{{unknown[0]}}} itself",
        )
    return found


def _filled(text: str, values: Mapping[str, str]) -> str:
    return FIELD.sub(lambda field: values[field[2]] if field[2] else f"{{{field[1]}}}", text)
