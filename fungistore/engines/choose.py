"""Which engine is meant: by flags, or by the variables of a scheduler that started this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fungistore.engines.engine import Engine, Local
from fungistore.engines.options import EngineChoice
from fungistore.engines.processes import Processes
from fungistore.engines.ray import Ray
from fungistore.errors import UsageError
from fungistore.registry import Registry
from fungistore.report import Reporter
from fungistore.store.locks import WHOLE, Slice

# (own number, how many there are), in the order in which they are looked for
VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", ("SLURM_ARRAY_TASK_COUNT",)),
    ("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")),
    ("RANK", ("WORLD_SIZE",)),
)


ENGINES = Registry(
    "engine",
    "fungistore.engines",
    {
        "local": "fungistore.engines.choose:local",
        "processes": "fungistore.engines.choose:processes",
        "ray": "fungistore.engines.choose:cluster",
    },
)


@dataclass(frozen=True)
class Asked:
    """What an engine is made of.

    Attributes:
        choice: the flags.
        device: of workers that get none of their own, as --device names it.
        environment: the process's variables.
        reporter: is told where a scheduler decided.
    """

    choice: EngineChoice
    device: str
    environment: Mapping[str, str]
    reporter: Reporter


def choose_engine(asked: Asked) -> Engine:
    """Return the engine that flags, or a scheduler's variables, ask for.

    Raises:
        UsageError: there is no such engine, a worker's number is missing, or does not fit.
    """
    choice = asked.choice
    name = choice.engine
    if name is None:
        several = choice.gpus is not None or choice.processes is not None
        name = "ray" if choice.cluster_flags else "processes" if several else "local"
    engine: Engine = ENGINES.choose(name, "--engine")(asked)
    return engine


def local(asked: Asked) -> Local:
    """Return the engine that is this process alone, with all units or its slice of them."""
    choice = asked.choice
    if choice.gpus is not None or choice.processes is not None:
        choice.refuse("engine", "processes, beside --gpus or --processes", choice.engine)
    slice_ = choose_slice(choice.worker_id, choice.num_workers, asked.environment, asked.reporter)
    return Local(slice_)


def processes(asked: Asked) -> Processes:
    """Return the engine of one process a GPU, or of several on one device."""
    choice = asked.choice
    if choice.gpus is not None:
        return Processes([f"cuda:{number}" for number in choice.gpus])
    return Processes([asked.device] * (choice.processes or 1))


def cluster(asked: Asked) -> Ray:
    """Return the engine of a Ray cluster."""
    choice = asked.choice
    kind = asked.device.partition(":")[0]
    gpus = choice.gpus_per_actor
    if kind not in ("auto", "cuda"):
        if gpus is not None:
            choice.refuse("gpus_per_actor", "nothing beside a --device without GPUs", asked.device)
        gpus = 0
    if kind == "cuda" and gpus is None:
        gpus = 1
    return Ray(choice.address, choice.actors, choice.cpus_per_actor, gpus)


def choose_slice(
    worker: int | None, workers: int | None, environment: Mapping[str, str], reporter: Reporter
) -> Slice:
    """Return the slice of one worker of several, from flags or from a scheduler's variables.

    Args:
        worker: this process's number, from 0, where it was given.
        workers: how many there are, where it was given.
        environment: the process's variables.
        reporter: is told where the scheduler decided.

    Raises:
        UsageError: half of it is missing, or the numbers do not fit.
    """
    found: tuple[Slice, str] | None = None
    if worker is None and workers != 1:
        found = _from_environment(environment)
    if worker is None and workers is None:
        if found is None or found[0].count == 1:
            return WHOLE
        reporter.notice(
            f"{found[0]}, as {found[1]} says; --num-workers 1 makes this process do everything"
        )
        return found[0]
    count = workers
    if count is None:
        raise UsageError("--worker-id needs the number of workers", hint="add --num-workers N")
    index = worker if worker is not None else 0 if count == 1 else found[0].index if found else None
    if index is None or not 0 <= index < count:
        raise UsageError(
            "not a worker's number",
            where="--worker-id",
            expected=f"0 to {count - 1}" if count > 0 else "--num-workers of 1 or more",
            found="nothing" if index is None else index,
            hint="number the workers from 0",
        )
    return Slice(index, count)


def _from_environment(environment: Mapping[str, str]) -> tuple[Slice, str] | None:
    for name, counts in VARIABLES:
        count = next((key for key in counts if key in environment), None)
        if name not in environment or count is None:
            continue
        try:
            index, total = int(environment[name]), int(environment[count])
            if name == "SLURM_ARRAY_TASK_ID":  # --array=1-8, or 0-14:2
                index -= int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
                index, rest = divmod(index, int(environment.get("SLURM_ARRAY_TASK_STEP", 1)))
            else:
                rest = 0
        except ValueError:
            continue
        if rest or not 0 <= index < total:
            raise UsageError(
                "the scheduler's numbers do not tell which worker this is",
                where=f"{name} and {count}",
                found=f"{environment[name]} and {environment[count]}",
                hint="give --worker-id and --num-workers",
            )
        said = f"{name}={environment[name]} of {count}={environment[count]}"
        return Slice(index, total), said
    return None
