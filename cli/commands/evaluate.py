"""`fungi eval`: one command for each evaluation that is registered, a plug-in's among them."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

import fungistore as fungi
from fungistore.errors import FungiError
from fungistore.machine.context import Context

from ..console import explains_errors, result_json
from ..flags import Json, StorePath, command
from ..tables import show_scores


class Evaluations(TyperGroup):
    """Makes a command when it is asked for, so that no other one waits for a plug-in's imports."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the registered names."""
        return list(fungi.EVALUATIONS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a registered evaluation; one that cannot be imported says why."""
        if cmd_name not in fungi.EVALUATIONS:
            return None
        taken: dict[str, Any] = {}
        try:
            function = command(_function(fungi.EVALUATIONS[cmd_name]))
        except FungiError as error:
            function = _failing(error)
            taken = {"allow_extra_args": True, "ignore_unknown_options": True}
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(cmd_name, context_settings=taken)(function)
        return typer.main.get_command(app)


def _function(kind: type[fungi.EvaluationOptions]) -> Any:
    def evaluate(
        *,
        store: StorePath,
        options: fungi.EvaluationOptions,
        as_json: Json = False,
        context: Context,
    ) -> None:
        done = options.evaluate(store, context=context)
        saved = done.save(context)
        if as_json:
            result_json(done.to_json() | {"saved": saved})
        else:
            show_scores(done, saved, kind.tell)

    evaluate.__annotations__["options"] = kind
    evaluate.__doc__ = kind.__doc__
    return evaluate


def _failing(error: FungiError) -> Any:
    @explains_errors
    def fail(as_json: Json = False) -> None:
        raise error

    fail.__doc__ = error.what
    return fail
