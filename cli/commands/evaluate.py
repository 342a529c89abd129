"""`fungi eval`: one command for each evaluation that is registered, a plug-in's among them."""

from __future__ import annotations

import pkgutil
from typing import Any

import typer

import fungistore as fungi
from fungistore.errors import FungiError, UsageError
from fungistore.machine.context import Context

from ..console import explains_errors
from ..engines import chosen_engine
from ..flags import Json, StorePath, command
from ..layout import Page, Pages
from ..output import result_json
from ..tables import show_scores


class Evaluations(Pages):
    """Makes a command when it is asked for, so that no other one waits for a plug-in's imports."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the registered names."""
        return list(fungi.EVALUATIONS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a registered evaluation; one that cannot be used says why."""
        if cmd_name not in fungi.EVALUATIONS:
            return None
        try:
            return _made(cmd_name, command(_function(fungi.EVALUATIONS[cmd_name])))
        except FungiError as error:
            failure = error
        except Exception as error:  # a plug-in's class may be anything
            failure = UsageError(
                f"the evaluation {cmd_name!r} of a plug-in cannot be used",
                found=f"{type(error).__name__}: {error}",
                hint="mend or uninstall the package that declares it",
            )
        return _made(
            cmd_name, _failing(failure), allow_extra_args=True, ignore_unknown_options=True
        )


def _made(name: str, function: Any, **settings: bool) -> Any:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(name, cls=Page, context_settings=settings)(function)
    return typer.main.get_command(app)


def _function(kind: Any) -> Any:
    if not isinstance(kind, type) or not issubclass(kind, fungi.EvaluationOptions):
        raise TypeError(f"{kind!r} is no class of EvaluationOptions")

    def show(done: fungi.Evaluation, as_json: bool, context: Context) -> None:
        saved = done.save(context)
        if as_json:
            result_json(done.to_json() | {"saved": saved})
        else:
            show_scores(done, saved, kind.tell)

    def evaluate(
        *,
        store: StorePath,
        options: fungi.EvaluationOptions,
        as_json: Json = False,
        context: Context,
    ) -> None:
        show(options.evaluate(store, context=context), as_json, context)

    def divide(
        *,
        store: StorePath,
        options: Any,
        engine: fungi.EngineChoice,
        as_json: Json = False,
        context: Context,
    ) -> None:
        workers = chosen_engine(engine, context)
        run = pkgutil.resolve_name(options.function)
        show(run(store, options, engine=workers, context=context), as_json, context)

    function = divide if kind.is_divided else evaluate
    function.__annotations__["options"] = kind
    function.__doc__ = kind.__doc__
    return function


def _failing(error: FungiError) -> Any:
    @explains_errors
    def fail(as_json: Json = False) -> None:
        raise error

    fail.__doc__ = error.what
    return fail
