"""What a shell offers when a value is half typed: quick, and silent whatever happens."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import typer

import fungistore as fungi
from fungistore.settings import SettingField
from fungistore.type_words import elements_of

Completer = Callable[[typer.Context, str], list[str]]


def completer(field: SettingField) -> Completer | None:
    """Return what completes a setting's value; None where it can be anything."""
    if not field.words and not field.setting.names:
        return None
    is_list = elements_of(field.kind) is not None and not field.setting.is_repeated

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        given, comma, begun = incomplete.rpartition(",") if is_list else ("", "", incomplete)
        try:
            values = field.words or _names(field.setting.names, ctx.params, begun)
        except Exception:  # of a damaged store, or a plug-in: a shell has no use for a message
            return []
        return [f"{given}{comma}{value}" for value in values if value not in given.split(",")]

    return complete


def join_values_of_bash(environment: MutableMapping[str, str]) -> None:
    """Let a shell ask for `--flag=VALUE` as for `--flag VALUE`: bash makes three words of it."""
    words = environment.get("COMP_WORDS", "").split("\n")
    last = environment.get("COMP_CWORD", "")
    if "=" not in words or not last.isdecimal():
        return
    kept, position = words[:1], int(last)
    for number, word in enumerate(words[1:], 1):
        if word == "=" and words[number - 1].startswith("--") and number < int(last):
            position -= 1
        else:
            kept.append(word)
    environment.update({"COMP_WORDS": "\n".join(kept), "COMP_CWORD": str(position)})


def _names(kind: str, given: dict[str, Any], begun: str) -> list[str]:
    if kind == "model":
        return fungi.complete_backbone(begun)
    if kind == "extracted feature":
        return ["embeddings", *fungi.objective_names(), "patches"]
    if given.get("store") is None:
        return []
    feature_set = given.get("setting_feature_set") if kind != "feature set" else None
    return fungi.names_in(given["store"], kind, feature_set)
