"""Plans: exactly what is missing is computed, once, and no unit is shared."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from list_source import numbered

from fungistore.extraction.measure import (
    PATCH_CHUNK_BYTES,
    UNIT_SECONDS,
    Rate,
    choose_unit_rows,
)
from fungistore.extraction.plan import (
    BatchPlan,
    Gap,
    count_samples,
    find_gaps,
    plan_batches,
)
from fungistore.store.chunks import encode
from fungistore.store.feature import Feature
from fungistore.store.listing import add_source
from fungistore.store.local import LocalBackend
from fungistore.store.samples import SampleTable
from fungistore.store.store import Store
from fungistore.store.units import LARGEST_UNIT, UnitArray

SHARED_TMP_PATH = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SPECS = [
    Feature("embeddings", (2,), "float16"),
    Feature("gradients/kl", (3,), "float16"),
    Feature("norms/kl", (), "float32"),
    Feature("patches", (2, 2, 2), "float16"),
]
History = dict[str, dict[int, int]]  # array: unit: rows committed


def publish_history(
    root: Path, history: History, rows: int, unit_rows: int
) -> dict[str, UnitArray]:
    """Return arrays with these rows of these units committed; a row count of 0 is a bare chunk."""
    arrays = {}
    for spec in SPECS:
        if spec.path not in history:
            continue
        array = UnitArray.create(
            LocalBackend(root),
            f"vit/{spec.path}",
            shape=(rows, *spec.row_shape),
            dtype=spec.dtype,
            unit_rows=unit_rows,
            codec="none",
            fingerprint="f",
        )
        for unit, count in history[spec.path].items():
            start = unit * unit_rows
            block = np.ones((min(count or unit_rows, rows - start), *spec.row_shape), spec.dtype)
            if count:
                array.publish(unit, block, ids="", failed=0)
            else:  # as after a kill before the record
                key = array.chunk_key(unit)
                array.folder.publish(key, *encode(block, unit_rows, array.codec))
        arrays[spec.path] = array
    return arrays


@st.composite
def situations(draw: st.DrawFn) -> tuple[int, int, int, History, list[Feature]]:
    """Draw rows then and now, rows of a unit, what was committed, and which arrays are wanted."""
    unit_rows = draw(st.sampled_from([1, 2, 4, 8]))
    rows = draw(st.integers(1, 3 * unit_rows + 1))
    wanted = draw(st.sets(st.sampled_from(["embeddings", "kl", "patches"]), min_size=1))
    history: History = {}
    for spec in SPECS:
        if draw(st.booleans()):
            units = draw(st.sets(st.integers(0, (rows - 1) // unit_rows)))
            history[spec.path] = {
                unit: draw(st.integers(0, min(unit_rows, rows - unit * unit_rows)))
                for unit in units
            }
    asked = draw(st.integers(0, 4 * unit_rows))  # a longer source, or a shorter --limit
    return rows, asked, unit_rows, history, [spec for spec in SPECS if spec.asked in wanted]


ONE_ARRAY_OF_TWO: tuple[int, int, int, History, list[Feature]] = (
    8,
    12,
    4,
    {"gradients/kl": {0: 4, 1: 4}, "norms/kl": {0: 4, 1: 2}, "embeddings": {1: 2}},
    SPECS,
)


@settings(SHARED_TMP_PATH)
@given(situation=situations())
@example(situation=ONE_ARRAY_OF_TWO)
def test_exactly_what_is_missing_is_planned(
    tmp_path: Path, situation: tuple[int, int, int, History, list[Feature]]
) -> None:
    """Against brute force: a (row, feature) that some array lacks is in one gap, no other is."""
    rows, asked, unit_rows, history, specs = situation
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    arrays = publish_history(root, history, rows, unit_rows)
    for array in arrays.values():
        array.grow(asked)
    gaps = find_gaps(specs, arrays, asked, unit_rows)

    def is_done(row: int, spec: Feature) -> bool:
        committed = history.get(spec.path, {}).get(row // unit_rows, 0)
        return row % unit_rows < committed

    missing = {
        (row, spec.asked) for row in range(asked) for spec in specs if not is_done(row, spec)
    }
    planned = Counter(
        (row, feature)
        for gap in gaps
        for row in range(gap.start, gap.stop)
        for feature in gap.features
    )
    assert set(planned) == missing
    assert set(planned.values()) <= {1}
    for gap in gaps:
        assert gap.start < gap.stop <= asked
        assert gap.start // unit_rows == (gap.stop - 1) // unit_rows == gap.unit
        assert gap.features
        assert gap.stop == min((gap.unit + 1) * unit_rows, asked)  # to the end of its unit
    assert gaps == sorted(gaps, key=lambda gap: (gap.unit, gap.start))
    spans = [(gap.start, gap.stop) for gap in gaps]
    assert len(spans) == len(set(spans)), "features that lack the same rows share a gap"


def test_a_new_feature_set_is_planned_unit_by_unit() -> None:
    """Nothing there: one gap a unit with all features, the last one shorter."""
    features = frozenset(["embeddings", "kl", "patches"])
    assert find_gaps(SPECS, {}, 10, 4) == [
        Gap(0, 0, 4, features),
        Gap(1, 4, 8, features),
        Gap(2, 8, 10, features),
    ]
    assert find_gaps(SPECS, {}, 0, 4) == []


def test_features_at_different_rows_of_a_unit_are_planned_apart(tmp_path: Path) -> None:
    """Where one feature has more rows of a unit than another, each gets what it lacks."""
    history: History = {"embeddings": {0: 3}, "patches": {0: 1}}
    arrays = publish_history(tmp_path, history, 4, 4)
    specs = [spec for spec in SPECS if spec.asked != "kl"]
    assert find_gaps(specs, arrays, 4, 4) == [
        Gap(0, 1, 4, frozenset(["patches"])),
        Gap(0, 3, 4, frozenset(["embeddings"])),
    ]


@pytest.mark.parametrize("behind", ["gradients/kl", "norms/kl"])
@pytest.mark.parametrize("has", [None, 0, 2], ids=["no array", "no record", "half a unit"])
def test_a_feature_of_two_arrays_is_done_where_both_are(
    tmp_path: Path, behind: str, has: int | None
) -> None:
    """A gradient whose norm is missing, or the other way round, is computed again."""
    history: History = {"gradients/kl": {0: 4, 1: 4}, "norms/kl": {0: 4, 1: 4}}
    if has is None:
        del history[behind]
    else:
        history[behind][1] = has
    arrays = publish_history(tmp_path, history, 8, 4)
    kl = frozenset(["kl"])
    first = [] if has is not None else [Gap(0, 0, 4, kl)]
    assert find_gaps(SPECS[1:3], arrays, 8, 4) == [*first, Gap(1, 4 + (has or 0), 8, kl)]
    assert find_gaps(SPECS[2:0:-1], arrays, 8, 4) == [*first, Gap(1, 4 + (has or 0), 8, kl)]


def test_a_finished_feature_set_needs_nothing(tmp_path: Path) -> None:
    """All units committed: no gap; a shorter limit needs none either, a longer source its tail."""
    history: History = {spec.path: {0: 4, 1: 3} for spec in SPECS}
    arrays = publish_history(tmp_path, history, 7, 4)
    assert find_gaps(SPECS, arrays, 7, 4) == []
    assert find_gaps(SPECS, arrays, 5, 4) == []
    features = frozenset(["embeddings", "kl", "patches"])
    assert find_gaps(SPECS, arrays, 9, 4) == [Gap(1, 7, 8, features), Gap(2, 8, 9, features)]


def test_what_a_plan_costs(tmp_path: Path) -> None:
    """Samples are counted once a gap."""
    arrays = publish_history(tmp_path, {"embeddings": {0: 3}}, 4, 4)
    gaps = find_gaps(SPECS, arrays, 4, 4)
    assert gaps == [
        Gap(0, 0, 4, frozenset(["kl", "patches"])),
        Gap(0, 3, 4, frozenset(["embeddings"])),
    ]
    assert count_samples(gaps) == 4 + 1
    assert count_samples([]) == 0


# --- batches


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleTable:
    """A table of 40 samples in two parts."""
    store = Store.open_or_create(tmp_path_factory.mktemp("samples"))
    add_source(store, numbered(13))
    add_source(store, numbered(40))
    return store.samples


@given(
    rows=st.integers(0, 40),
    unit_rows=st.sampled_from([1, 2, 4, 8, 16]),
    batch_size=st.integers(1, 20),
    skipped=st.sets(st.integers(0, 40)),
)
@settings(max_examples=60, deadline=None)
def test_a_batch_never_straddles_a_unit(
    samples: SampleTable, rows: int, unit_rows: int, batch_size: int, skipped: set[int]
) -> None:
    """Batches are full but for each gap's last one, which alone is marked; no row is lost."""
    planned = find_gaps(SPECS, {}, rows, unit_rows)
    gaps = [gap for number, gap in enumerate(planned) if number not in skipped]
    batches: dict[int, list[BatchPlan]] = {}
    order = []
    for plan in plan_batches(gaps, samples, batch_size):
        batches.setdefault(plan.unit, []).append(plan)
        order.append(plan.unit)
    assert order == sorted(order)
    assert list(batches) == [gap.unit for gap in gaps]
    for gap in gaps:
        plans = batches[gap.unit]
        covered = [row["row"] for plan in plans for row in plan.rows]
        assert covered == list(range(gap.start, gap.stop))
        assert [len(plan.rows) for plan in plans[:-1]] == [batch_size] * (len(plans) - 1)
        assert 1 <= len(plans[-1].rows) <= batch_size
        assert [plan.last for plan in plans] == [False] * (len(plans) - 1) + [True]
        assert {plan.features for plan in plans} == {gap.features}
        assert all(row["id"] == f"{row['row']:08d}.jpg" for plan in plans for row in plan.rows)


def test_two_tasks_of_a_unit_end_separately(samples: SampleTable) -> None:
    """Each gap of a unit has its own last batch, so each is committed by itself."""
    patches, embeddings = frozenset(["patches"]), frozenset(["embeddings"])
    gaps = [Gap(1, 5, 8, patches), Gap(1, 7, 8, embeddings)]
    seen = [
        ([row["row"] for row in plan.rows], plan.features, plan.last)
        for plan in plan_batches(gaps, samples, 2)
    ]
    assert seen == [([5, 6], patches, False), ([7], patches, True), ([7], embeddings, True)]


# --- the size of a unit


@given(
    rate=st.floats(1e-6, 1e9),
    side=st.integers(1, 64),
    width=st.integers(1, 4096),
    with_patches=st.booleans(),
)
@example(rate=1e9, side=16, width=384, with_patches=False)
@example(rate=1e-6, side=64, width=4096, with_patches=True)
@example(rate=math.inf, side=1, width=1, with_patches=False)
def test_unit_rows_are_the_largest_power_of_two_within_the_limits(
    rate: float, side: int, width: int, with_patches: bool
) -> None:
    """A minute of work, 65,536 rows, 100 MB of patches: as many rows as all three allow, or one."""
    patches = Feature("patches", (side, side, width), "float16")
    specs = [*SPECS[:3], patches] if with_patches else SPECS[:3]
    rows = choose_unit_rows(Rate(low=0.0, high=rate), specs)

    def fits(count: int) -> bool:
        return (
            count <= LARGEST_UNIT
            and count <= rate * UNIT_SECONDS
            and (not with_patches or count * patches.row_bytes <= PATCH_CHUNK_BYTES)
        )

    assert rows >= 1
    assert rows & (rows - 1) == 0
    assert fits(rows) or rows == 1
    assert not fits(2 * rows)


@pytest.mark.parametrize(
    ("rate", "features", "expected"),
    [
        (10.0, ["embeddings"], 512),
        (1.0, ["embeddings", "patches"], 32),
        (1e6, ["embeddings"], 65_536),
        (1e6, ["patches"], 256),  # 16 x 16 x 768 in float16: 100.7 MB
        (0.01, ["embeddings", "kl"], 1),
    ],
)
def test_unit_rows_of_usual_extractions(rate: float, features: list[str], expected: int) -> None:
    """Slow models get short units, fast vectors long ones, patch tensors what fits in 100 MiB."""
    large = Feature("patches", (16, 16, 768), "float16")
    specs = [spec for spec in [*SPECS[:3], large] if spec.asked in features]
    assert choose_unit_rows(Rate(low=rate / 2, high=rate), specs) == expected


def test_free_space_of_a_place_that_is_not_there_yet(tmp_path: Path) -> None:
    """The disk of the nearest existing parent is asked."""
    assert LocalBackend(tmp_path / "not" / "yet" / "s.fungi").free_bytes() > 0
