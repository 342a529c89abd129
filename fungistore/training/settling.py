"""What of a training is refused: a metric that cannot choose an epoch, and other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation.ordered import KAPPA, require_order
from fungistore.fingerprint import describe
from fungistore.modalities.modality import with_article
from fungistore.quantities import counted
from fungistore.training.options import LoopOptions

EPOCHS = "options.epochs"


def refuse_metric(options: LoopOptions, names: Sequence[str], validated: NDArray[np.int32]) -> None:
    """Refuse a metric that the validation rows do not have, before anything is frozen.

    Args:
        options: with the metric, and the order of the classes.
        names: of the classes.
        validated: labels of the validation rows.

    Raises:
        UsageError: they do not have it.
    """
    present = len(np.unique(validated))
    if options.order is not None or options.metric == KAPPA:
        require_order(names, options.order, f"--metric {options.metric}")
    if options.metric not in ("roc_auc", KAPPA) or present > 1:
        return
    raise UsageError(
        f"{options.metric} cannot choose the best epoch here",
        where="--metric",
        expected="two classes or more among the validation rows",
        found=f"{counted(len(names), 'class')}, {present} of them among the validation rows",
        hint="--metric accuracy, or mean_per_class_accuracy",
    )


def refuse_other_settings(what: str, where: str, fields: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse to go on with a run that was begun with other settings.

    Args:
        what: is trained, such as "head".
        where: the run is.
        fields: in which the settings differ; see `differences`.

    Raises:
        MismatchError: there are some.
    """
    if set(fields) == {EPOCHS}:
        trained, other = fields[EPOCHS]
        raise MismatchError(
            f"the number of {with_article(what)}'s epochs cannot change: the learning rate falls "
            "to zero over all of them, so those of another number are another training",
            where=where,
            expected=f"--epochs {trained}",
            found=f"--epochs {other}",
            hint=f"another --name trains a second {what}, --restart this one anew",
        )
    if fields:
        raise MismatchError(
            f"{with_article(what)} of this name was trained with other settings",
            where=where,
            expected="the same settings and rows, or another name",
            found=describe(fields),
            hint="another --name keeps both, --restart starts anew",
        )
