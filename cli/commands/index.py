"""`fungi index`."""

from __future__ import annotations

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted, duration, size

from ..console import next_step
from ..engines import chosen_engine
from ..flags import Json, Restart, StorePath, command
from ..output import note, result, result_json
from ..shell import operand


@command
def index(
    *,
    store: StorePath,
    options: fungi.IndexOptions,
    engine: fungi.EngineChoice,
    restart: Restart = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Build a faiss index for `fungi search`; again to add rows.

    Its recall is measured against exact search, on queries that it was not trained on.

    \b
    Examples:
      fungi index pets.fungi
      fungi index pets.fungi --features embeddings,kl --metric euclidean
      fungi index pets.fungi --pca half --factory HNSW32 --name graph
      fungi index pets.fungi --factory IVF4,Flat --name lists --processes 2

    Exit codes: 0 done, 1 failed, 2 usage, 4 another index of that name, or changed features,
    5 damaged store, 75 stopped by SIGTERM (run again), 130 ^C.
    """
    workers = chosen_engine(engine, context)
    done = fungi.build_index(store, options, restart=restart, engine=workers, context=context)
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "search", operand(store), "QUERY", "--index", done.index.name)


def _show(done: fungi.IndexResult) -> None:
    record = done.index
    recall = "recall not measured: too few rows"
    if record.recall is not None:
        recall = "exact"
        if record.recall.queries:
            effort = "".join(f", {name}={value}" for name, value in record.effort.items())
            value, queries = 100 * record.recall.value, record.recall.queries
            recall = (
                f"recall@{record.recall.k} {value:.1f} % on {counted(queries, 'query')}{effort}"
            )
    result(
        f"{record.feature_set}: index {record.name}, "
        f"{counted(record.vectors, 'vector')} of {record.dim} "
        f"values, {record.metric}, {record.factory}, {size(record.files['vectors'].bytes)}; "
        f"{recall}; {done.added} added in {duration(done.seconds)}"
    )
    if record.excluded:
        note(f"excluded: {counted(record.excluded, 'row')} without usable features")
    if record.removed:
        note(f"excluded: {counted(len(record.removed), 'row')} whose file is gone from the source")
    if done.missing:
        note(
            f"without features: {counted(done.missing, 'row')}; if some are made, "
            f"this command adds them"
        )
