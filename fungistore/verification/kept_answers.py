"""What language models were paid for, line by line."""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.prompting.answers import ANSWERS, parse_line
from fungistore.quantities import counted
from fungistore.store.store import Store
from fungistore.verification.findings import Finding, Remedy, readable


def check_answers(store: Store) -> Iterator[Finding]:
    """Check each line of the kept answers; one that was cut short or edited does not count."""
    folder = store.folder(ANSWERS)
    for name in folder.list().files:
        if name.endswith(".jsonl"):
            key = folder.key_of(name)
            yield from readable(store.backend, key, _check_file(key, folder.read(name)))


def _check_file(key: str, data: bytes) -> Iterator[Finding]:
    good, damaged = [], 0
    for line in data.splitlines(keepends=True):
        try:
            parse_line(line)
            good.append(line)
        except ValueError:
            damaged += bool(line.strip())
    if damaged:
        again = "the next fungi eval icl asks for these answers again"
        yield Finding(
            "answers-damaged",
            key,
            "answers as they were written, one a line",
            counted(damaged, "other line"),
            "warning",
            Remedy(f"rewritten without them; {again}", write=((key, b"".join(good)),)),
        )
