"""The moments of the rows that a PCA is fitted on: group by group of units, added up in order.

The groups follow from the rows alone, so one process and any number of workers add up the same
numbers in the same order, and give the same PCA, bit for bit.
"""

from __future__ import annotations

import numpy as np

from fungistore.engines.engine import Engine, Place
from fungistore.engines.pieces import Make, Pieces, is_alone
from fungistore.fingerprint import Config, fingerprint
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix, open_features
from fungistore.pca.components import ROWS_AT_ONCE, Moments
from fungistore.store.samples import Rows
from fungistore.store.scratch import Scratch, Tensors
from fungistore.store.store import Store

MOST_GROUPS = 64
LEAST_GROUPS = 8  # however wide the rows: enough for a few workers
SCRATCH_BYTES = 8_000_000_000  # that the moments of all groups may take
ROWS = "rows"


def groups_of(rows: Rows, unit_rows: int, width: int) -> list[Rows]:
    """Divide ascending rows into groups of consecutive units, each worth the adding up.

    Args:
        rows: to fit on.
        unit_rows: rows of a unit, of which all are in one group.
        width: of a row; the moments of a group are its square.
    """
    most = min(MOST_GROUPS, max(LEAST_GROUPS, SCRATCH_BYTES // (8 * width * width)))
    least = max(ROWS_AT_ONCE, -(-len(rows) // most))
    cuts = [0]
    for cut in np.flatnonzero(np.diff(rows // unit_rows)) + 1:
        if cut - cuts[-1] >= least:
            cuts.append(int(cut))
    return np.split(rows, cuts[1:])


def sum_moments(
    matrix: FeatureMatrix, config: Config, rows: Rows, engine: Engine, context: Context
) -> Moments:
    """Return the moments of some rows of a matrix.

    Args:
        matrix: the features.
        config: of the PCA.
        rows: to fit on.
        engine: who reads them.
        context: its reporter is told what happens, its stop asked between blocks.
    """
    groups, moments = groups_of(rows, matrix.unit_rows, matrix.dim), Moments()
    if is_alone(engine) or len(groups) == 1:
        context.reporter.begin("rows read", len(rows))
        for group in groups:
            _take_in(moments, _moments_of(matrix, group, context))
        context.reporter.end()
        return moments
    pieces = Pieces(
        run_name(config),
        len(groups),
        "groups of units",
        f"{__name__}:{open_moments.__name__}",
        {"features": list(matrix.features), "feature_set": matrix.feature_set},
    )
    cuts = np.cumsum([len(group) for group in groups[:-1]])
    given = [(ROWS, {ROWS: rows, "cuts": cuts})]
    for tensors in pieces.made(engine, matrix.store, context, given):
        _take_in(moments, tensors)
    return moments


def run_name(config: Config) -> str:
    """Return the name of the scratch folder of the PCA of some configuration."""
    return f"pca-{fingerprint(config)}"


def open_moments(
    store: Store, arguments: Config, scratch: Scratch, place: Place, context: Context
) -> Make:
    """Open the features in a worker, and return what gives the moments of a group."""
    matrix = open_features(store, arguments["features"], feature_set=arguments["feature_set"])
    given = scratch.read(ROWS)
    groups = np.split(given[ROWS], given["cuts"])
    return lambda number: _moments_of(matrix, groups[number], context)


def _moments_of(matrix: FeatureMatrix, rows: Rows, context: Context) -> Tensors:
    moments = Moments()
    for numbers, vectors in matrix.stream(rows):
        context.stop_if_asked()
        moments.add(vectors)
        context.reporter.advance(len(numbers))
    return {
        "count": np.array(moments.count),
        "mean": moments.mean,
        "scatter": moments.scatter,
    }


def _take_in(moments: Moments, tensors: Tensors) -> None:
    moments.merge(int(tensors["count"]), tensors["mean"], tensors["scatter"])
