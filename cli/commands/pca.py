"""`fungi pca`."""

from __future__ import annotations

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted

from ..console import next_step
from ..engines import chosen_engine
from ..flags import Json, Restart, StorePath, command
from ..output import result, result_json
from ..shell import operand


@command
def pca(
    *,
    store: StorePath,
    options: fungi.PcaOptions,
    engine: fungi.EngineChoice,
    restart: Restart = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Fit an exact PCA of features, and store the coordinates.

    Features are normalised and concatenated first. Fitted in one pass and bounded memory; the same
    command again transforms only new rows.

    \b
    Examples:
      fungi pca pets.fungi --features embeddings,kl,dino --dim 512
      fungi pca pets.fungi --holdout 0.2 --seed 0 --name half
      fungi eval knn pets.fungi --pca half --holdout 0.2 --seed 0
      fungi pca pets.fungi --features embeddings,kl --reduction random
      fungi pca pets.fungi --name divided --processes 2
    """
    workers = chosen_engine(engine, context)
    done = fungi.fit_pca(store, options, restart=restart, engine=workers, context=context)
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "index", operand(store), "--pca", done.name)


def _show(done: fungi.PcaResult) -> None:
    result(f"{done.feature_set}/pca/{done.name}: {counted(done.rows, 'row')} of {done.dim}")
    made = f"from {' + '.join(done.features)} ({done.input_dim})"
    if done.explained_variance is None:
        result(f"{made}, a random projection")
    else:
        result(f"{made}, fitted on {counted(done.fit['rows'], 'row')}")
        result(f"explained variance {done.explained_variance:.1%}")
    if done.unreadable:
        result(f"{counted(done.unreadable, 'row is', 'rows are')} NaN, as their features are")
