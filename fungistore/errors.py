"""Errors that a user can act on: what is wrong, where, expected and found, what to try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import PurePath

DEBUG = "FUNGI_DEBUG"  # the variable that asks for tracebacks, of worker processes too


class FungiError(Exception):
    """A failure with an explanation; the command line prints it without a traceback.

    Args:
        what: one sentence that says what is wrong.
        where: the file, flag, field or row that it is about.
        expected: what would have been right.
        found: what was there instead.
        hint: what to try next, naming the flag or command that fixes it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.hint = hint

    def details(self) -> dict[str, object]:
        """Return what is known beside `what`, by the word that it is shown with."""
        details = {
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "try": self.hint,
        }
        return {word: value for word, value in details.items() if value is not None}

    def to_json(self) -> dict[str, str | None]:
        """Return a JSON-ready dictionary, as `--json` prints it."""
        fields = {"where": self.where, "expected": self.expected, "found": self.found}
        texts = {key: None if value is None else str(value) for key, value in fields.items()}
        return {"what": self.what, **texts, "try": self.hint}

    def __str__(self) -> str:
        lines = [f"  {word}: {value}" for word, value in self.details().items()]
        return "\n".join([self.what, *lines])


class UsageError(FungiError):
    """The command line, or a source or file that it names, cannot be used as given."""

    exit_code = 2


class MismatchError(FungiError):
    """What is asked for differs from what the store was made with; nothing was overwritten."""

    exit_code = 4


class StoreError(FungiError):
    """The store is corrupt, incomplete, or of a schema that this version does not know."""

    exit_code = 5


class SchemaError(StoreError):
    """The store is of another major schema: nothing is said about its state."""


class StoppedError(FungiError):
    """A signal asked the run to stop; the same command continues it."""

    exit_code = 75


class LeaseLostError(FungiError):
    """Another process took over what this one was writing; nothing of that one was overwritten."""


class FullMemoryError(FungiError):
    """A GPU's memory does not hold what it was given."""


class UnreachableError(FungiError):
    """A server, or what it knows of this user, keeps everything of a source from being read."""


class ItemError(FungiError):
    """One input that cannot be turned into an item; a run records it and goes on."""


class ImageError(ItemError):
    """One input that cannot be turned into pixels."""


class TextError(ItemError):
    """One input that is no text, or has nothing to read."""


class AudioError(ItemError):
    """One input that cannot be turned into a recording."""


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the hint that names what is spelled nearly so, in any case; None where nothing is."""
    plain = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), plain, n=1)
    return f"did you mean {plain[near[0]]!r}?" if near else None


def refuse_text(name: str, value: object) -> None:
    """Refuse one text, or path, where several are meant: its letters are none of them.

    Args:
        name: of the argument.
        value: that was given.

    Raises:
        UsageError: it is text, or a path; the error says what to write.
    """
    if isinstance(value, str | bytes | PurePath):
        text = str(value)
        words = [word.strip() for word in text.split(",")] if isinstance(value, str) else [text]
        raise UsageError(
            f"{name} is a list, and got one {'path' if isinstance(value, PurePath) else 'text'}",
            where=name,
            expected=f"{name}={words!r}",
            found=repr(text),
        )


def explained(error: Exception) -> FungiError:
    """Return an error as it is told to a user; of one that nobody foresaw, its type and text."""
    if isinstance(error, FungiError):
        return error
    if isinstance(error, MemoryError):  # CUDA's out-of-memory error is a RuntimeError, below
        hint = "a smaller --batch-size, or --projection-dim"
        return FungiError("out of memory", found=str(error) or None, hint=hint)
    if isinstance(error, OSError) and error.filename is not None:
        hint = "mend that, then run the same command again: what is stored was left as it is"
        what, found = "a file cannot be read or written", error.strerror or str(error)
        return FungiError(what, where=error.filename, found=found, hint=hint)
    hint = "fungi --debug ... shows where; if it is out of memory, a smaller --batch-size"
    return FungiError("unexpected error", found=f"{type(error).__name__}: {error}", hint=hint)


def error_to_wire(error: Exception) -> dict[str, str | None]:
    """Return an error as `error_from_json` takes it, in the process that started this one."""
    known = explained(error)
    return known.to_json() | {"kind": type(known).__name__}


def error_from_json(document: Mapping[str, str | None], exit_code: int) -> FungiError:
    """Undo `error_to_wire`, or `to_json`, which does not tell the class.

    Args:
        document: the error; where its class is not known here, or not told, the exit code's is.
        exit_code: that of a process that ends with it.
    """
    kinds = [FungiError, UsageError, MismatchError, StoreError, StoppedError]
    kind = next((kind for kind in reversed(kinds) if kind.exit_code == exit_code), FungiError)
    while kinds:
        one = kinds.pop()
        kinds += one.__subclasses__()
        if one.__name__ == document.get("kind") and one.__init__ is FungiError.__init__:
            kind = one
    fields = {key: document.get(key) for key in ("where", "expected", "found")}
    return kind(document.get("what") or "a worker failed", hint=document.get("try"), **fields)
