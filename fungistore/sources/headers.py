"""What the columns of a table are, by their names: those that people and programs give them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from fungistore.sources.labels import known_split

PATH, LABEL, SPLIT, ID = "path", "label", "split", "id"
ROLES = (PATH, LABEL, SPLIT, ID)

# The plain forms (`plain_header`) of each role's names, the exact one first.
NAMES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        PATH: (
            *("path", "filepath", "filename", "file", "files", "relpath", "relativepath"),
            *("fullpath", "imagepath", "imgpath", "imagefile", "imagefilename", "imagename"),
            *("imgname", "image", "img", "images", "imagefilepath", "fname", "photo", "picture"),
            *("audiopath", "audiofile", "audio", "wav", "clip", "textpath", "textfile"),
            *("uri", "imageid", "imgid"),
        ),
        LABEL: (
            *("label", "labelname", "labels", "class", "classname", "classlabel", "labeltext"),
            *("category", "categoryname", "target", "targetname", "targets", "species", "y"),
            *("speciesname", "labelid", "labelidx", "classid", "classidx", "categoryid", "ytrue"),
        ),
        # a fold has numbers, which name no split; some call a column of splits so
        SPLIT: (
            *("split", "splits", "subset", "set", "partition", "phase", "usage", "fold"),
            *("splitname", "datasplit", "dataset", "traintest", "trainvaltest"),
        ),
        ID: ("id", "ids", "imageid", "imgid", "sampleid", "uid", "uuid", "itemid"),
    }
)
# Further words for labels, where a column holds the items themselves, such as texts.
LABELS_OF_CELLS = ("sentiment", "emotion", "intent", "topic", "coarselabel", "labelcoarse")
_PATHS_TRIED = 8
_INTEGERS = r"^\s*-?[0-9]+\s*$"
_FRACTIONS = r"^\s*-?[0-9]*[.,][0-9]+([eE][-+]?[0-9]+)?\s*$"

# The cells of some columns, as text or numbers: of a table's beginning, or of all of it.
Cells = Callable[[Sequence[str]], Iterable[pa.RecordBatch]]


@dataclass(frozen=True)
class Roles:
    """Which column of a table has what.

    Attributes:
        of: the column of each role that the table has.
        doubled: roles whose exact name more than one column has.
        passed: for each role, columns that have a name for it too.
    """

    of: Mapping[str, str]
    doubled: tuple[str, ...]
    passed: Mapping[str, tuple[str, ...]]

    def remarks(self) -> list[str]:
        """Return which columns were taken, where the names left a choice."""
        said = [
            f"the {role} is column {self.of[role]!r}, not {' or '.join(map(repr, others))}"
            for role, others in self.passed.items()
            if others
        ]
        told = [
            f"{role} from {name!r}"
            for role, name in self.of.items()
            if plain_header(name) != role and not self.passed.get(role)
        ]
        return said + ([f"columns were taken by other names: {', '.join(told)}"] if told else [])


def plain_header(name: str) -> str:
    """Return a column's name without case, blanks and marks: "Image ID" is "imageid"."""
    return re.sub(r"[\s_.\-]+", "", name).casefold()


def find_roles(
    names: Sequence[str],
    head: Cells,
    whole: Cells,
    *,
    is_there: Callable[[str], bool],
    taken: str | None = None,
    has_corrections: bool = False,
) -> Roles:
    """Find out what the columns of a table are.

    An exact name wins; of others, in the order of NAMES, the first one whose cells can be it:
    splits have to be words for splits, ids have to differ, labels are no fractions, and a path had
    better be that of a file. Of class numbers and the names that belong to them, the names are the
    labels.

    Args:
        names: of the columns.
        head: gives the beginning of some columns.
        whole: gives all of some columns; it is read only if there is a choice of labels.
        is_there: whether a path is a file's.
        taken: a column that is something else.
        has_corrections: names of classes may have been corrected, so the numbers beside them may
            be those of others.
    """
    found: dict[str, str] = {}
    passed: dict[str, tuple[str, ...]] = {}
    doubled = []
    for role in ROLES:
        free = [name for name in names if name != taken and name not in found.values()]
        exact = [name for name in free if name == role]
        exact = exact or [name for name in free if plain_header(name) == role]
        if len(exact) > 1:
            doubled.append(role)
        others = [
            name
            for plain in (*NAMES[role], *(LABELS_OF_CELLS if role == LABEL and taken else ()))
            for name in free
            if plain_header(name) == plain and name not in exact and names.count(name) == 1
        ]
        cells = {name: _beginning(head, name) for name in [*others, *(exact[:1] if others else ())]}
        fitting = exact[:1] + [name for name in others if _can_be(role, cells[name])]
        if role == PATH and not exact and len(fitting) > 1:
            fitting.sort(key=lambda name: not any(map(is_there, _some(cells[name]))))
        if role == LABEL and len(fitting) > 1:
            fitting = _names_before_numbers(fitting, cells, None if has_corrections else whole)
        if fitting:
            found[role], *more = fitting
            passed[role] = tuple(more) if role in (PATH, LABEL) else ()
    passed = {role: tuple(o for o in more if o != found.get(ID)) for role, more in passed.items()}
    return Roles(found, tuple(doubled), passed)


def is_word(kind: pa.DataType) -> bool:
    """Whether a column's type is text or integers, as names and numbers of things are."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(is_text or pa.types.is_string_view(kind) or pa.types.is_integer(kind))


def _beginning(head: Cells, name: str) -> pa.Array | None:
    """Return the first cells of a column as text, without empty ones; None of what is no text."""
    batch = next(iter(head([name])), None)
    if batch is None:
        return pa.array([], pa.string())
    cells = batch.column(0)
    if pa.types.is_binary(cells.type):
        try:
            cells = cells.cast(pa.string())
        except pa.ArrowInvalid:
            return None
    if not is_word(cells.type):
        return None
    texts = pc.utf8_trim_whitespace(cells.cast(pa.string()))
    return texts.filter(pc.fill_null(pc.not_equal(texts, ""), False))


def _can_be(role: str, cells: pa.Array | None) -> bool:
    if cells is None:
        return False
    if role == SPLIT:
        return len(cells) > 0 and all(map(known_split, cells.unique().to_pylist()))
    if role == ID:
        return len(cells) > 0 and pc.count_distinct(cells).as_py() == len(cells)
    return role != LABEL or not len(cells) or not _all_are(cells, _FRACTIONS)


def _all_are(cells: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(cells, pattern)).as_py())


def _some(cells: pa.Array | None) -> list[str]:
    return [] if cells is None else cells[:_PATHS_TRIED].to_pylist()


def _names_before_numbers(
    columns: Sequence[str], cells: Mapping[str, pa.Array | None], whole: Cells | None
) -> list[str]:
    """Put the first column of names first that has one for each number of the first column.

    Without the whole cells, the first column of names.
    """
    first, *others = columns
    numbers = cells[first]
    if numbers is None or not len(numbers) or not _all_are(numbers, _INTEGERS):
        return [*columns]
    for name in others:
        names = cells[name]
        if names is None or not len(names) or _all_are(names, _INTEGERS):
            continue
        if whole is None or _belong_together(whole([first, name])):
            return [name, *(other for other in columns if other != name)]
    return [*columns]


def _belong_together(batches: Iterable[pa.RecordBatch]) -> bool:
    """Whether each cell of one column goes with one cell of another, and this one with it."""
    pairs: set[tuple[str, str]] = set()
    for batch in batches:
        texts = [pc.utf8_trim_whitespace(column.cast(pa.string())) for column in batch.columns]
        found = pa.table(texts, names=["one", "other"]).group_by(["one", "other"]).aggregate([])
        pairs.update(zip(*(column.to_pylist() for column in found.columns), strict=True))
        one, other = (set(side) for side in zip(*pairs, strict=True)) if pairs else (set(), set())
        if not len(one) == len(other) == len(pairs):
            return False
    return True
