"""`fungi bank`."""

from __future__ import annotations

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted

from ..console import next_step
from ..flags import Json, Restart, StorePath, command
from ..output import result, result_json
from ..shell import operand


@command
def bank(
    *,
    store: StorePath,
    options: fungi.BankOptions,
    restart: Restart = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Write a memory bank of labelled patches.

    Of the training images with masks. Again: continues, takes new images and changed masks.

    \b
    Examples:
      fungi bank scenes.fungi
      fungi bank scenes.fungi --features patches --size 102400 --name plain
      fungi bank scenes.fungi --center positions --factory auto --name centred
    """
    done = fungi.build_bank(store, options, restart=restart, context=context)
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "eval", "segment", operand(store), "--bank", done.name)


def _show(done: fungi.BankResult) -> None:
    patches = counted(done.patches, "patch", "patches")
    result(f"{done.feature_set}/bank/{done.name}: {patches} of {counted(done.images, 'image')}")
    result(
        f"from {' + '.join(done.features)} ({done.dim}), {counted(len(done.classes), 'class')}, "
        f"up to {done.per_image} an image"
    )
    for reason, count in done.excluded.items():
        result(f"left out: {count} {reason}")
    if done.recall is not None:
        result(f"index {done.factory}, recall@10 {done.recall:.3f}")
