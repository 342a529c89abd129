"""What the doctor is asked to look at beside the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fungistore.headings import MODEL
from fungistore.machine.choices import DeviceChoice
from fungistore.settings import Count, Setting


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(DeviceChoice):
    """Settings of `fungi doctor`."""

    heading = MODEL

    model: Annotated[
        str | None,
        Setting(
            "Measure this timm model's bare forward: the floor.",
            default="none is measured",
            metavar="NAME",
            names="model",
        ),
    ] = None
    image_size: Annotated[
        Count | None, Setting("Side of the model's input in pixels.", default="the model's own")
    ] = None
