"""`fungi table loff`: heads of some stores, a row each method, as LOFF-TA's tables have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Any

from fungistore.errors import UsageError
from fungistore.extraction.options import ReplayChoice
from fungistore.fingerprint import Config, fingerprint
from fungistore.loff.evaluate import HeadGroup, evaluate_groups
from fungistore.loff.evaluate_options import Flip, LoffOptions, LoffTableOptions
from fungistore.loff.head_folder import head_names, head_run
from fungistore.loff.options import LINEAR, NONE
from fungistore.loff.rates import SPEED_COLUMNS, HeadSpeed
from fungistore.loff.stored import StoredHead, open_head
from fungistore.machine.context import DEFAULT, Context
from fungistore.store.store import Store

OF_SEEDS = ("seed", "split_seed")  # options that heads of one row may differ in
METHODS = {  # as papers write them
    "full": "Unfrozen",
    "linear": "Frozen",
    "vpt": "VPT",
    "ssf": "SSF",
    "adaptformer": "AdaptFormer",
    "lora": "LoRA",
}


@dataclass(frozen=True)
class Cell:
    """What a row says of one store.

    Attributes:
        heads: names of the heads, or of what else was tested.
        metrics: numbers by name; of several heads the means, and `NAME_deviation`.
        spread: [low, high] of 95 % intervals.
        n_test: rows tested on.
    """

    heads: tuple[str, ...]
    metrics: dict[str, float]
    spread: dict[str, tuple[float, float]]
    n_test: int


@dataclass(frozen=True)
class Found:
    """A row of one store.

    Attributes:
        features: the backbone, and what adapted it.
        method: such as "LOFF-TA + Pool".
        image_size: of the images that the backbone saw; None: not known.
        name: of the heads, which tells rows of one method apart.
        feature_set: that was read.
        cell: what was measured.
        speed: of training and inference; None: not measured.
    """

    features: str
    method: str
    image_size: int | None
    name: str
    feature_set: str
    cell: Cell
    speed: HeadSpeed | None


@dataclass(frozen=True)
class TableRow:
    """A row of the table.

    Attributes:
        features: the backbone, and what adapted it.
        method: such as "LOFF-TA + Pool".
        image_size: of the images that the backbone saw; None: not known.
        name: of the heads, which tells rows of one method apart.
        cells: by store; a store without such heads has none.
        speed: in the first store that has it.
    """

    features: str
    method: str
    image_size: int | None
    name: str
    cells: dict[str, Cell]
    speed: HeadSpeed | None


@dataclass(frozen=True)
class LoffTable:
    """Methods in rows, stores in columns.

    Attributes:
        stores: their directories.
        metrics: columns of each store.
        rows: one each method.
    """

    stores: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return a Markdown table: metrics in per cent, with deviations over seeds."""
        names = [Path(store).name.removesuffix(".fungi") for store in self.stores]
        told = [name.replace("_", " ") for name in self.metrics]
        measured = [
            f"{n}, {metric}" if len(names) > 1 else metric for n in names for metric in told
        ]
        columns = [
            *("features", "method", "image", "heads", *measured),
            *SPEED_COLUMNS,
        ]
        lines = [columns, ["---"] * len(columns), *map(self._line, self.rows)]
        return "".join(f"| {' | '.join(_escaped(cells))} |\n" for cells in lines)

    def _line(self, row: TableRow) -> list[str]:
        cells = [row.cells.get(store) for store in self.stores]
        return [
            *(row.features, row.method, "-" if row.image_size is None else str(row.image_size)),
            row.name,
            *(_percent(cell, name) for cell in cells for name in self.metrics),
            *(("-",) * len(SPEED_COLUMNS) if row.speed is None else row.speed.cells()),
        ]


# what finds rows in a store; a source of adapted models of their own would be another of them
RowSource = Callable[[Store, LoffTableOptions, Context], Iterator[Found]]


def table_loff(
    stores: str | Path | Sequence[str | Path],
    options: LoffTableOptions = LoffTableOptions(),
    *,
    context: Context = DEFAULT,
) -> LoffTable:
    """Test the heads of stores as `fungi eval loff` does, and put them into one table.

    A row has the heads that differ in their seeds alone, or those that a line's pattern names.
    Rows of several stores are one where backbone, method, image size and names of heads agree.
    With `ensemble`, rows of several heads are followed by one of the mean of their probabilities;
    with `tta`, rows of heads on feature maps by one of the mean over flips.

    Args:
        stores: their directories.
        options: which heads, and what is told.
        context: its reporter is told what happens, its stop asked between heads.

    Raises:
        UsageError: there is no such head, or no such metric.
        MismatchError: features or rows are not those of a head's training any more.
    """
    opened = [
        Store.open(store, keep_removed=options.keep_removed)
        for store in ([stores] if isinstance(stores, str | Path) else stores)
    ]
    rows: dict[tuple[str, str, int | None, str], TableRow] = {}
    known: dict[str, None] = {}
    for store in opened:
        for source in SOURCES:
            for found in source(store, options, context):
                known |= dict.fromkeys(found.cell.metrics)
                _place(found, store.where, rows)
    if not rows:
        raise UsageError(
            "there is no head to tell of",
            where=", ".join(store.where for store in opened),
            expected="heads" + (f" that match {', '.join(options.lines)}" if options.lines else ""),
            hint="fungi train-loff trains one; --line 'TITLE=SET/NAME' names some",
        )
    if unknown := [name for name in options.metrics if name not in known]:
        raise UsageError(
            f"no row has this metric: {', '.join(unknown)}",
            where="--metrics",
            expected=f"some of {', '.join(name for name in known if 'deviation' not in name)}",
            hint="--kappa, or --order, adds the quadratic kappa of ordered classes",
        )
    where = tuple(store.where for store in opened)
    return LoffTable(where, options.metrics, tuple(rows.values()))


def _place(
    found: Found, store: str, rows: dict[tuple[str, str, int | None, str], TableRow]
) -> None:
    """Add what a store has to the row of this kind, or to a new one with a name of its own."""
    every = ", ".join(found.cell.heads)
    for name in (found.name, f"{found.feature_set}/{found.name}", f"{found.feature_set}/{every}"):
        key = (found.features, found.method, found.image_size, name)
        row = rows.setdefault(key, TableRow(*key, cells={}, speed=found.speed))
        if store not in row.cells:
            row.cells[store] = found.cell
            return


def rows_of_heads(store: Store, options: LoffTableOptions, context: Context) -> Iterator[Found]:
    """Yield the rows of a store's heads: as they are, then ensembles and flips where asked for."""
    for line in _lines(store, options):
        yield from _tested(store, line, options, context, tta=())
        if options.tta and line.has_grid:
            yield from _tested(store, line, options, context, tta=options.tta)


SOURCES: tuple[RowSource, ...] = (rows_of_heads,)


def method_of(setup: Config, config: Config) -> str:
    """Return what LOFF-TA's tables call a head's method.

    Such as "Frozen + linear", "LOFF", "LOFF-TA + Pool", and with an adapted backbone "VPT + LOFF".

    Args:
        setup: of the array that the head reads; {} where it is not known.
        config: of the head.
    """
    adapter = setup.get("backbone", {}).get("adapter")
    before = METHODS.get(adapter["method"], adapter["method"]) if adapter else "Frozen"
    if config["head"]["kind"] == LINEAR:
        return f"{before} + linear"
    options = config["options"]
    own = "LOFF" if options["augment"]["kind"] == NONE else "LOFF-TA"
    is_pooled = options["pool"] > 1 or setup.get("patches", {}).get("pool", 1) > 1
    return (f"{before} + " if adapter else "") + own + (" + Pool" if is_pooled else "")


@dataclass(frozen=True)
class _Line:
    method: str
    name: str
    first: StoredHead
    heads: tuple[str, ...]
    has_grid: bool


def _tested(
    store: Store,
    line: _Line,
    options: LoffTableOptions,
    context: Context,
    *,
    tta: tuple[Flip, ...],
) -> Iterator[Found]:
    """Test the heads of a line; yield their mean, and the ensemble if it is asked for."""
    first, names = line.first, line.heads
    shared = {field.name: getattr(options, field.name) for field in fields(ReplayChoice)}
    asked = LoffOptions(
        **shared,
        keep_removed=options.keep_removed,
        kappa=options.kappa,
        order=options.order,
        ensemble=options.ensemble and len(names) > 1,
        tta=tta,
        time_backbone=options.time_backbone,
    )
    group = HeadGroup(line.name, first.feature_set, names)
    done = evaluate_groups(store, [group], asked, context=context)
    done.save(context)
    features, image_size = _backbone(store, first)
    views = f", {' and '.join(tta)} at test time" if tta else ""
    for score, speed in zip(done.scores, done.speed, strict=True):
        ending = str(score.protocol["heads"]).removeprefix(line.name)  # ", ensemble", or nothing
        yield Found(
            features=features,
            method=line.method + views + ending,
            image_size=image_size,
            name=line.name,
            feature_set=first.feature_set,
            cell=Cell(names, dict(score.metrics), dict(score.spread), score.n_test),
            speed=speed,
        )


def _lines(store: Store, options: LoffTableOptions) -> Iterator[_Line]:
    """Yield heads that belong into one row: those that a pattern names, or those of one kind."""
    for title, pattern in (line.split("=", 1) for line in options.lines):
        for feature_set in store.feature_sets():
            named = {
                name: config
                for name, config in _trained(store, feature_set).items()
                if fnmatchcase(name, pattern) or fnmatchcase(f"{feature_set}/{name}", pattern)
            }
            if named:
                yield _line(store, feature_set, named, title, pattern)
    if options.lines:
        return
    for feature_set in store.feature_sets():
        groups: dict[str, dict[str, Config]] = {}
        for name, config in _trained(store, feature_set).items():
            groups.setdefault(_kind_of(config), {})[name] = config
        for group in groups.values():
            yield _line(store, feature_set, group, None, _name_of([*group]))


def _line(
    store: Store, feature_set: str, heads: Mapping[str, Config], title: str | None, name: str
) -> _Line:
    first = open_head(store, feature_set, next(iter(heads)))
    method = title or method_of(_setup(store, first), first.config)
    has_grid = all(config["head"].get("grid") is not None for config in heads.values())
    return _Line(method, name, first, tuple(heads), has_grid)


def _trained(store: Store, feature_set: str) -> dict[str, Config]:
    """Return what the heads of a feature set were trained with, of those that have an epoch."""
    runs = {name: head_run(store, feature_set, name) for name in head_names(store, feature_set)}
    return {
        name: config
        for name, run in runs.items()
        if run.progress().best_epoch is not None and (config := run.config()) is not None
    }


def _kind_of(config: Config) -> str:
    """Return what heads of one row share: everything but seeds, and the rows that they decide."""
    shared = {key: config[key] for key in ("head", "dtype", "classes", "inputs")}
    options = {key: value for key, value in config["options"].items() if key not in OF_SEEDS}
    return fingerprint(shared | {"options": options})


def _name_of(names: Sequence[str]) -> str:
    """Return one name for heads: what their names begin with, and how many they are."""
    if len(names) == 1:
        return names[0]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    return f"{''.join(letter for letter, _ in same)}* ({len(names)})"


def _setup(store: Store, stored: StoredHead) -> Config:
    key = stored.array.fingerprint
    return store.setups.config(key) if store.setups.has(key) else {}


def _backbone(store: Store, stored: StoredHead) -> tuple[str, int | None]:
    """Return what made the features, and from images of which size; of others, the feature set."""
    backbone = _setup(store, stored).get("backbone")
    if not isinstance(backbone, dict) or "model" not in backbone:
        return stored.feature_set, None
    size = backbone.get("image_size")
    return str(backbone["model"]), size if isinstance(size, int) else None


def _percent(cell: Cell | None, name: str) -> str:
    if cell is None or name not in cell.metrics:
        return "-"
    text = f"{100 * cell.metrics[name]:.1f}"
    deviation = cell.metrics.get(f"{name}_deviation")
    return text if deviation is None else f"{text} ± {100 * deviation:.1f}"


def _escaped(cells: Sequence[str]) -> list[str]:
    return [re.sub(r"([|\\])", r"\\\1", cell).replace("\n", " ") for cell in cells]
