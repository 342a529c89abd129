"""`fungi`: one command a stage."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from . import (
    doctor,
    eval_cluster,
    eval_compare,
    eval_knn,
    eval_linear,
    eval_loff,
    eval_retrieval,
    export,
    extract,
    import_features,
    index,
    models,
    pca,
    predict,
    search,
    status,
    train_loff,
    verify,
)
from .console import DEBUG

app = typer.Typer(
    name="fungi",
    help="Turn a frozen vision backbone and a pile of images into features worth keeping.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


app.command("extract")(extract.extract)
app.command("pca")(pca.pca)
app.command("index")(index.index)
app.command("search")(search.search)
app.command("train-loff")(train_loff.train_loff)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("import")(import_features.import_features)
app.command("status")(status.status)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)
app.command("models")(models.models)

evaluation = typer.Typer(help="Evaluate features: one command a table.", no_args_is_help=True)
evaluation.command("knn")(eval_knn.knn)
evaluation.command("linear")(eval_linear.linear)
evaluation.command("loff")(eval_loff.loff)
evaluation.command("cluster")(eval_cluster.cluster)
evaluation.command("retrieval")(eval_retrieval.retrieval)
evaluation.command("compare")(eval_compare.compare)
app.add_typer(evaluation, name="eval")


def main() -> None:
    """Run the command line."""
    app()
