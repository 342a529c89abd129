"""Options become flags: the one place where a setting is turned into what the shell gives.

A command is a function that takes some `Settings`; typer gets one with a flag for each of their
fields instead. Values travel as text, and the settings check them, so that a mistake reads the
same wherever it was made.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

import fungistore as fungi
from fungistore.settings import SettingField, Settings

from .completion import completer
from .config_file import read_config
from .console import ended_by_interrupts, explains_errors, running

StorePath = Annotated[
    str, typer.Argument(metavar="STORE", help="The store's directory, or its URL.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Delete the one of this name first.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML or JSON of these settings; flags win.  [default: flags alone]",
    ),
]
PLACEHOLDERS = ((bool, ""), (int, "N"), (float, "NUMBER"), (Path, "FILE"))


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Return what typer makes a command of: the function with flags for settings.

    A parameter that is a `Settings` becomes a flag for each of its fields, and all of them come
    with --config. Of a parameter `store` come the flags of what is kept of stores at a URL. A
    parameter `context` is given what shows progress and hears signals.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    groups = {name: hints[name] for name in parameters if _is_settings(hints[name])}
    reads_stores = "store" in parameters  # which may be at a URL

    @explains_errors
    def run(**values: Any) -> None:
        with ExitStack() as stack:
            if "context" in parameters:  # from the start: importing and loading take seconds
                values["context"] = stack.enter_context(running())
            else:
                stack.enter_context(ended_by_interrupts())
            given = {group: _given(kind, values) for group, kind in groups.items()}
            if reads_stores:
                fungi.CacheOptions.from_config(_given(fungi.CacheOptions, values)).use()
            if groups and (path := values.pop("config")) is not None:
                _add_file(path, given, groups)
            options = {name: kind.from_config(given[name]) for name, kind in groups.items()}
            function(**values, **options)

    signature: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        if name == "as_json" and groups:
            signature.append(_parameter("config", Config, None))
        if name in groups:
            signature += _parameters(groups[name])
        elif name != "context":
            signature.append(_parameter(name, hints[name], parameter.default))
    if reads_stores:
        signature += _parameters(fungi.CacheOptions)
    run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in signature}
    run.__doc__, run.__name__, run.__module__ = (
        function.__doc__,
        function.__name__,
        function.__module__,
    )
    return run


def _given(kind: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """Take the flags of some settings out of all values; those that were given."""
    taken = {field.key: values.pop(_variable(field)) for field in kind.flags()}
    return {key: value for key, value in taken.items() if value not in (None, [])}


def _add_file(
    path: Path, given: dict[str, dict[str, Any]], groups: dict[str, type[Settings]]
) -> None:
    """Add a file's settings to those of the flags; what no group knows is the first one's."""
    first, settings = next(iter(groups)), read_config(path)
    for kind in groups.values():
        settings = kind.flat(settings)
    for key, value in settings.items():
        known = (name for name, kind in groups.items() if key in {f.key for f in kind.flags()})
        given[next(known, first)].setdefault(key, value)


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _variable(field: SettingField) -> str:
    return f"setting_{field.key}"


def _parameters(kind: type[Settings]) -> Iterator[inspect.Parameter]:
    for field in kind.flags():
        flags = field.setting.flag.split() or [field.where]
        is_switch = bool in field.types
        if is_switch and field.default is not False:
            flags = [f"{field.where}/--no-{field.where.removeprefix('--')}"]
        option = typer.Option(
            *flags,
            help=_help(field),
            metavar=None if is_switch else _metavar(field),
            show_default=False,
            rich_help_panel=field.heading,
            autocompletion=completer(field),
        )
        value: Any = bool if is_switch else list[str] if field.setting.is_repeated else str
        yield _parameter(_variable(field), Annotated[value | None, option], None)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _help(field: SettingField) -> str:
    default, words = field.default, field.setting.default
    if default is dataclasses.MISSING:
        return f"{field.setting.help}  [required]"
    if not words and isinstance(default, tuple):
        words = ",".join(str(one).lower() for one in default)
    elif not words and isinstance(default, int | float | str) and default is not False:
        words = "on" if default is True else str(default)
    return f"{field.setting.help}  [default: {words}]" if words else field.setting.help


def _metavar(field: SettingField) -> str:
    if field.setting.metavar:
        return field.setting.metavar
    words = [*field.words, *(word for kind, word in PLACEHOLDERS if kind in field.types)]
    return f"[{'|'.join(words)}]" if field.words else (words or ["TEXT"])[0]
