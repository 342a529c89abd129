"""What a plan is asked: the extraction, the machines, what goes wrong with them, prices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from fungistore.choices import Codec, StorageDtype
from fungistore.headings import DATA, FEATURES, MACHINES, MODEL, PRICES, STORAGE, TROUBLE
from fungistore.settings import Count, Positive, PowerOfTwo, Setting, Settings
from fungistore.type_words import Words

Amount = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class MachineFacts(Settings):
    """The machines of a plan; rates are images per second."""

    heading = MACHINES

    nodes: Annotated[Count, Setting("Machines that extract at the same time.")] = 1
    gpus_per_node: Annotated[Count, Setting("Workers of a machine, one a GPU.")] = 1
    gpu: Annotated[
        str | None,
        Setting(
            "What a worker runs on, such as h200; its measured rate is taken where there is one.",
            default="not said",
            metavar="NAME",
        ),
    ] = None
    rate: Annotated[
        Positive | None,
        Setting("Images per second of one worker.", default="a measured one"),
    ] = None
    measured: Annotated[
        str | None,
        Setting(
            "What `fungi extract --json` has printed, for its rate.",
            default="none",
            metavar="FILE",
        ),
    ] = None
    rate_of: Annotated[
        Count, Setting("Workers that wrote STORE together: its records tell the rate of all.")
    ] = 1
    scaled_from: Annotated[
        str | None,
        Setting(
            "Hardware that was measured, whose rate --scaling turns into one of --gpu.",
            default="none",
            metavar="NAME",
        ),
    ] = None
    scaling: Annotated[
        Annotated[tuple[Positive, Positive], Words("two factors, as 0.6,1.1")] | None,
        Setting(
            "Lowest and highest factor on the rate, where it is of other hardware.",
            default="1,1",
            metavar="LOW,HIGH",
        ),
    ] = None
    read_rate: Annotated[
        Positive | None,
        Setting("Images per second that a machine reads and decodes.", default="no limit"),
    ] = None
    cores: Annotated[
        Count | None,
        Setting(
            "CPU cores of a machine, for a bound on decoding from our measurement.",
            default="no bound",
        ),
    ] = None
    node_memory: Annotated[
        Positive | None,
        Setting("GB of a machine, by which the index is chosen.", default="this machine's"),
    ] = None
    node_disk: Annotated[
        Positive | None, Setting("GB of the disk that the store is on.", default="not looked at")
    ] = None
    load_seconds: Annotated[
        Amount, Setting("From a worker's start to its first unit: imports, model, compiling.")
    ] = 60.0
    placement: Annotated[
        Literal["dynamic", "slices"],
        Setting("Workers take the next unit, or each has every N-th (--num-workers)."),
    ] = "dynamic"


@dataclass(frozen=True, kw_only=True)
class Trouble(Settings):
    """What goes wrong with machines."""

    heading = TROUBLE

    mtbf: Annotated[
        Positive | None,
        Setting("Mean hours between the failures of one machine.", default="none fails"),
    ] = None
    preempted_every: Annotated[
        Positive | None,
        Setting("Mean hours between the preemptions of one machine.", default="none is"),
    ] = None
    restart_minutes: Annotated[Amount, Setting("Until a machine is there again.")] = 5.0
    lease_seconds: Annotated[
        Amount, Setting("For which nobody takes the unit of a machine that failed.")
    ] = 60.0
    node_spread: Annotated[
        Amount, Setting("How much the speeds of machines differ: deviation over mean.")
    ] = 0.0
    unit_spread: Annotated[
        Amount, Setting("The same of the units of one machine, as where images differ in size.")
    ] = 0.0
    seed: Annotated[int, Setting("Of the simulation.")] = 42


@dataclass(frozen=True, kw_only=True)
class Prices(Settings):
    """What machines, storage and requests cost."""

    heading = PRICES

    price_per_hour: Annotated[Amount | None, Setting("Of one machine.", default="not said")] = None
    storage_price: Annotated[Amount | None, Setting("Of a TB for a month.", default="not said")] = (
        None
    )
    request_price: Annotated[
        Amount | None, Setting("Of a thousand writing requests.", default="not said")
    ] = None
    currency: Annotated[str, Setting("What prices are in.", metavar="WORD")] = "USD"


@dataclass(frozen=True, kw_only=True)
class PlanOptions(MachineFacts, Trouble, Prices):
    """Settings of `fungi plan`; what a STORE tells is taken from there."""

    heading = MODEL

    model: Annotated[
        str | None,
        Setting(
            "Of timm; nothing of it is downloaded.",
            default="STORE's",
            metavar="NAME",
            names="model",
        ),
    ] = None
    image_size: Annotated[
        Count | None, Setting("Side of the model's input in pixels.", default="the model's own")
    ] = None
    features: Annotated[
        Annotated[tuple[str, ...], MinLen(1)] | None,
        Setting(
            "Those that are extracted; of a STORE, some of its own.",
            default="embeddings,kl, or all of STORE",
            metavar="NAMES",
            heading=FEATURES,
            names="extracted feature",
        ),
    ] = None
    feature_set: Annotated[
        str | None,
        Setting(
            "Of STORE.",
            default="the only one",
            metavar="NAME",
            heading=FEATURES,
            names="feature set",
        ),
    ] = None
    pool: Annotated[Count, Setting("Average patch tensors over N x N cells.", heading=FEATURES)] = 1
    projection_dim: Annotated[
        Count | None,
        Setting("Width of a gradient feature.", default="the blocks' width", heading=FEATURES),
    ] = None
    storage_dtype: Annotated[
        StorageDtype, Setting("Of stored vectors; patch tensors are float16.", heading=STORAGE)
    ] = "float16"
    codec: Annotated[
        Codec,
        Setting(
            "How chunks are stored; sizes of compressed ones are upper bounds, but for STORE's.",
            heading=STORAGE,
        ),
    ] = "none"
    unit_rows: Annotated[
        PowerOfTwo | None,
        Setting(
            "Rows that are committed at once, a power of two.",
            default="as extract chooses from the rate and a row's size",
            heading=STORAGE,
        ),
    ] = None
    shard_units: Annotated[
        PowerOfTwo, Setting("Chunks of --unit-rows in one file (a shard).", heading=STORAGE)
    ] = 1
    images: Annotated[
        Count | None,
        Setting("How many there will be.", default="those of SOURCE or STORE", heading=DATA),
    ] = None
    start: Annotated[
        str | None,
        Setting(
            "When it begins, as 2030-01-31T09:00.", default="now", metavar="TIME", heading=DATA
        ),
    ] = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            UsageError: naming the option, what it takes and what it got.
        """
        super().__post_init__()
        if self.start is not None:
            try:
                datetime.fromisoformat(self.start)
            except ValueError:
                self.refuse("start", "a time, as 2030-01-31 or 2030-01-31T09:00", self.start)
        low, high = self.scaling or (1.0, 1.0)
        if low > high:
            self.refuse("scaling", "the lower factor first", self.scaling)
        if self.scaled_from is not None and self.scaling is None:
            self.refuse(
                "scaled_from",
                "--scaling LOW,HIGH beside it",
                self.scaled_from,
                "say how many times as fast the other hardware is, at least and at most",
            )
