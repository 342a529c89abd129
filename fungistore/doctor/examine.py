"""All checks in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungistore.doctor.check import Check
from fungistore.doctor.disk import check_disk
from fungistore.doctor.hardware import check_hardware
from fungistore.doctor.limits import check_limits
from fungistore.doctor.options import DoctorOptions
from fungistore.doctor.software import check_software
from fungistore.doctor.stored import judge_store
from fungistore.doctor.weights import check_weights
from fungistore.store.store import Store

if TYPE_CHECKING:
    from fungistore.doctor.floor import Floor


@dataclass(frozen=True)
class Examination:
    """What the doctor found.

    Attributes:
        store: that was looked at, None without one.
        checks: in their order.
        floor: of the model that was named, None without one.
    """

    store: str | None
    checks: tuple[Check, ...]
    floor: Floor | None

    @property
    def is_fit(self) -> bool:
        """Whether no check failed."""
        return all(check.state != "fail" for check in self.checks)

    @property
    def counts(self) -> dict[str, int]:
        """How many checks passed, warned and failed."""
        found = Counter(check.state for check in self.checks)
        return {"pass": found["pass"], "warn": found["warn"], "fail": found["fail"]}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"fit": self.is_fit, "counts": self.counts, **asdict(self)}


def examine(
    store: str | Path | None = None, options: DoctorOptions = DoctorOptions()
) -> Examination:
    """Look at this machine, and at a store; takes seconds, and opens no connection.

    Args:
        store: a store; its disk is tested instead of the current folder's.
        options: the model whose bare forward is measured too, and where.

    Raises:
        UsageError: there is no such store or model.
    """
    root = None if store is None else Path(store)
    if root is not None and not Store.exists(root):
        Store.open(root)  # raises, and says what would do
    checks = list(_checks(root))
    floor = None
    if options.model is not None:
        from fungistore.doctor.floor import measure_floor  # imports what a check may find broken

        floor = measure_floor(options.model, image_size=options.image_size, device=options.device)
        checks.append(floor.to_check())
    return Examination(None if root is None else str(root), tuple(checks), floor)


def _checks(root: Path | None) -> Iterator[Check]:
    yield from chain(check_software(), check_hardware(), check_limits(), check_weights())
    yield from check_disk(root or Path())
    if root is not None:
        yield from judge_store(root)
