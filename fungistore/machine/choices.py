"""The setting of where a model runs, for every stage that runs one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fungistore.headings import SPEED
from fungistore.settings import Setting, Settings


@dataclass(frozen=True, kw_only=True)
class DeviceChoice(Settings):
    """Where a model runs."""

    heading = SPEED

    device: Annotated[str, Setting("auto, cpu, cuda, cuda:N or mps.", metavar="NAME")] = "auto"
