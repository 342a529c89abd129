"""How fast classifiers are trained and asked, and the memory that it took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fungistore.errors import FungiError
from fungistore.extraction.options import ReplayChoice
from fungistore.machine.context import Context
from fungistore.machine.device import resolve_device
from fungistore.sources.sample import NamedItem
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.training.run_folder import RunFolder
from fungistore.training.speed import read_speed

if TYPE_CHECKING:
    from fungistore.extraction.replay import Replay

GIGABYTE = 1e9
SPEED_COLUMNS = (
    *("training images/s", "head images/s", "backbone + head"),
    *("training GPU GB", "training RSS GB"),
)


@dataclass(frozen=True)
class TrainingSpeed:
    """What some trainings have measured.

    Attributes:
        device: "cpu", or the name of a GPU.
        images_per_second: of training steps, with the reading of their rows; the runs' mean.
        peak_rss_bytes: the most memory that a process had.
        peak_gpu_bytes: the most that torch had allocated on the GPU; None on a CPU.
    """

    device: str
    images_per_second: float
    peak_rss_bytes: int
    peak_gpu_bytes: int | None


@dataclass(frozen=True)
class InferenceSpeed:
    """Images a second that are classified; several views of each count once.

    Attributes:
        device: "cpu", or the name of a GPU.
        head: of the head on cached features, after a first batch, with the reading of the rows;
            of an ensemble, all of its heads one after the other.
        backbone: of the store's own extraction, reading and decoding included; None: not measured.
        backbone_and_head: one after the other, as the paper counts.
    """

    device: str
    head: float
    backbone: float | None
    backbone_and_head: float | None


@dataclass(frozen=True)
class ClassifierSpeed:
    """How fast what a score is of trains and answers.

    Attributes:
        training: None where it is not known.
        inference: measured as they were tested.
    """

    training: TrainingSpeed | None
    inference: InferenceSpeed

    def cells(self) -> tuple[str, ...]:
        """Return what stands below `SPEED_COLUMNS`: images a second, and gigabytes."""
        training, both = self.training, self.inference.backbone_and_head
        on_gpu = None if training is None else training.peak_gpu_bytes
        return (
            "-" if training is None else f"{training.images_per_second:.0f}",
            f"{self.inference.head:.0f}",
            "-" if both is None else f"{both:.1f}",
            "-" if on_gpu is None else f"{on_gpu / GIGABYTE:.2f}",
            "-" if training is None else f"{training.peak_rss_bytes / GIGABYTE:.2f}",
        )


def training_speed(runs: Iterable[RunFolder]) -> TrainingSpeed | None:
    """Return what some runs have kept beside them; None where they have nothing."""
    found = [speed for run in runs if (speed := read_speed(run)) is not None and speed.rows]
    if not found:
        return None
    on_gpu = [speed.peak_gpu_bytes for speed in found if speed.peak_gpu_bytes is not None]
    return TrainingSpeed(
        device=found[-1].device,
        images_per_second=sum(speed.rows_per_second for speed in found) / len(found),
        peak_rss_bytes=max(speed.peak_rss_bytes for speed in found),
        peak_gpu_bytes=max(on_gpu) if on_gpu else None,
    )


def inference_speed(
    device: torch.device, seconds_per_image: float, backbone: float | None
) -> InferenceSpeed:
    """Return images a second of a head, alone and behind its backbone.

    Args:
        device: that it runs on.
        seconds_per_image: of the head.
        backbone: images a second; None where it is not known.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    both = None if backbone is None else 1 / (1 / backbone + seconds_per_image)
    return InferenceSpeed(name, 1 / seconds_per_image, backbone, both)


class Timer:
    """Seconds since it was made, when the device has done what it was told."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wait()
        self._began = time.perf_counter()

    def seconds(self) -> float:
        """Return them; never 0."""
        self._wait()
        return max(time.perf_counter() - self._began, 1e-9)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def time_backbone(
    store: Store,
    feature_set: str,
    arrays: Mapping[str, UnitArray],
    rows: Rows,
    choice: ReplayChoice,
    context: Context,
) -> float:
    """Return images a second of the extraction that made some features.

    The images of the rows are read, decoded and put through the model, after one to warm up.

    Raises:
        UsageError: the weights are gone, the features were imported, or no image can be read.
        MismatchError: the weights, or what else decides the features, are others now.
    """
    from fungistore.extraction.replay import replay_extraction

    replay = replay_extraction(store, feature_set, arrays, choice=choice, context=context)
    items = [_item(store, row) for row in rows.tolist()]
    _run(replay, items[:1], context)
    timer = Timer(resolve_device(choice.device))
    _run(replay, items, context)
    return len(items) / timer.seconds()


def _run(replay: Replay, items: Sequence[NamedItem], context: Context) -> None:
    for found in replay.features(items, context):
        if isinstance(found, FungiError):
            raise found


def _item(store: Store, row: int) -> NamedItem:
    (sample,) = store.samples.rows(row, row + 1)
    return NamedItem(sample["id"], sample["root"], sample["uri"], sample["id"])
