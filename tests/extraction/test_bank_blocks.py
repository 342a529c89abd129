"""Banks made in blocks: what a stop leaves, who goes on with it, and that it goes again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from feature_world import Notices
from fungistore.errors import StoppedError, UsageError
from fungistore.extraction import bank_blocks, banks, measure
from fungistore.extraction.bank_blocks import BankBlocks, OpenBlock
from fungistore.extraction.banks import encode_bank
from fungistore.extraction.freeze import array_configs, bank_features
from fungistore.extraction.freeze import bank_blocks as bank_blocks_of
from fungistore.extraction.measure import Estimate, Rate, estimate
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.extraction.stage import extract
from fungistore.machine.context import Context
from fungistore.objectives.deepcluster import DeepCluster
from fungistore.objectives.simclr import SimCLR
from fungistore.sources.opening import open_source
from fungistore.store.backend import open_backend
from fungistore.store.folder import Folder
from fungistore.store.listing import add_source
from fungistore.store.samples import SampleTable
from fungistore.store.schema import schema
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from tiny_world import TINY, contents, write_images

IMAGES = 9
SMALL = DeepCluster(head_dim=8, local_crops=1, iterations=3)
OBJECTIVES = {"deepcluster": SMALL, "simclr": SimCLR(stride_scale=2, negatives=7, head_dim=8)}


def options_of(weights: Path, feature: str = "deepcluster") -> ExtractOptions:
    """A feature of two rows, with a bank of all images, in batches of two."""
    return ExtractOptions(
        model=TINY,
        weights=str(weights),
        image_size=32,
        features=(feature,),
        dtype="float32",
        device="cpu",
        batch_size=2,
        unit_rows=2,
        objectives=OBJECTIVES,
        limit=2,
    )


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> Resolved:
    """The settings, settled."""
    return resolve(options_of(tiny_weights), {})


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Quiet:
    """What a dry run told of a store, and the store, whose bank nothing has interrupted."""
    folder = tmp_path_factory.mktemp("quiet")
    write_images(folder / "images", IMAGES, seed=4)
    root, options = folder / "s.fungi", options_of(tiny_weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "measure_rate", lambda *_: Rate(1, 1))
        told = estimate(folder / "images", root, options)
    extract(folder / "images", root, options)
    return Quiet(folder / "images", root, told)


@dataclass(frozen=True)
class Quiet:
    """A source, its store, and what a dry run had told of that."""

    source: Path
    root: Path
    told: Estimate


@pytest.fixture
def source(quiet: Quiet, tmp_path: Path) -> Path:
    """A copy of the images."""
    return shutil.copytree(quiet.source, tmp_path / "images")


def samples_in(source: Path) -> SampleTable:
    """The table of a store that lists them, and that nothing was extracted into."""
    store = Store.open_or_create(source.parent / f"listed-{len(list(source.rglob('*')))}.fungi")
    add_source(store, open_source(str(source)), "image")
    return store.samples


class Encoded(Notices):
    """A reporter that counts the samples of banks, and asks for a stop after some of them."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.said: list[str] = []
        super().__init__(self.said)
        self.made = 0
        self.stop_after = stop_after
        self._is_bank = False

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._is_bank = what.endswith(("prototypes", "negatives"))

    def advance(self, count: int) -> None:
        self.made += count if self._is_bank else 0

    @property
    def context(self) -> Context:
        most = self.stop_after
        return Context(self, stop=lambda: most is not None and self.made >= most)


def bank_of(root: Path) -> np.ndarray:
    store = Store.open(root)
    (array,) = (a for n, a in store.arrays(TINY).items() if n.startswith("gradients/"))
    ((name, _),) = store.setups.banks(array.fingerprint).items()
    return store.setups.bank(array.fingerprint, name)


def blocks_in(root: Path) -> list[Path]:
    return sorted(root.glob("setups/*/latents.*"))


def encode(
    resolved: Resolved, source: Path, kept: BankBlocks | None = None, told: Encoded | None = None
) -> np.ndarray:
    """Make the bank alone."""
    maker = bank_features(resolved, "deepcluster")
    context = (told or Encoded()).context
    return encode_bank(resolved, samples_in(source), "deepcluster", maker, context, kept)


def blocks_at(path: Path) -> BankBlocks:
    return BankBlocks(Folder(open_backend(path), "setups/x"))


def test_a_stopped_bank_goes_on_where_it_was(
    quiet: Quiet, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It encodes no sample again, and in the end every file is that of one quiet run.

    A dry run in between counts what is left. The rows of a unit, which decide the setup's name,
    may be others than when it was begun.
    """
    options, root = options_of(tiny_weights), tmp_path / "s.fungi"
    first, second = Encoded(4), Encoded()
    monkeypatch.setattr(measure, "measure_rate", lambda *_: Rate(1, 1))
    with pytest.raises(StoppedError):
        extract(quiet.source, root, replace(options, unit_rows=4), context=first.context)
    (finding,) = verify_store(root).findings
    assert (finding.severity, finding.kind) == ("warning", "orphan")
    assert "goes on with it" in str(finding.found)
    (block,) = blocks_in(root)
    described = schema().kind_of(block.relative_to(root).as_posix())
    assert described is not None
    assert described.path.endswith("latents.<start>.safetensors")
    told = estimate(quiet.source, root, options)
    assert told.seconds[0] == pytest.approx(2 + (IMAGES - 4) * 2 / 5)
    extract(quiet.source, root, options, context=second.context)
    assert (first.made, second.made) == (4, IMAGES - 4)
    assert "deepcluster prototypes: going on after 4 images" in second.said
    assert contents(root) == contents(quiet.root)
    assert verify_store(root).is_sound


def test_a_broken_file_among_the_first_is_a_place_all_the_same(
    tiny: Resolved, source: Path, tmp_path: Path
) -> None:
    """The block after a stop begins behind all samples that were tried, those unread among them.

    So each sample is encoded once, however often the bank is stopped, and the bank is the same.
    """
    table = samples_in(source)
    first, *_ = banks._order(tiny, table, "deepcluster", IMAGES).ids(0, IMAGES)
    (source / first).write_bytes(b"broken")
    whole = Encoded()
    expected = encode(tiny, source, told=whole)
    assert whole.made == IMAGES - 1
    runs, kept = [Encoded(1), Encoded(1), Encoded()], blocks_at(tmp_path)
    for told in runs[:2]:
        with pytest.raises(StoppedError):
            encode(tiny, source, kept, told)
    assert np.array_equal(encode(tiny, source, kept, runs[2]), expected)
    assert sum(told.made for told in runs) == IMAGES - 1


def test_a_stop_between_the_iterations_of_k_means_loses_no_latents(
    quiet: Quiet, tmp_path: Path, tiny_weights: Path
) -> None:
    """All of them are kept, and the bank of the next run, which encodes none, is the same."""
    options, root, second = options_of(tiny_weights), tmp_path / "s.fungi", Encoded()
    with pytest.raises(StoppedError):
        extract(quiet.source, root, options, context=Encoded(IMAGES).context)
    assert len(blocks_in(root)) == 1
    extract(quiet.source, root, options, context=second.context)
    assert second.made == 0
    assert contents(root) == contents(quiet.root)


def test_what_a_kill_behind_the_last_moment_leaves_is_removed(
    quiet: Quiet, source: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    """Blocks beside a bank that is frozen go with the next run; it stays as the store grows."""
    root, options = tmp_path / "s.fungi", options_of(tiny_weights)
    with pytest.raises(StoppedError):
        extract(source, root, options, context=Encoded(2).context)
    (block,) = blocks_in(root)
    shutil.copytree(quiet.root / "setups", root / "setups", dirs_exist_ok=True)
    write_images(source / "more", 2, seed=6)
    told = Encoded()
    extract(source, root, options, context=told.context)
    assert (told.made, blocks_in(root), block.parent.exists()) == (0, [], False)
    assert np.array_equal(bank_of(root), bank_of(quiet.root))


def test_a_second_store_can_use_the_first_ones_prototypes(
    quiet: Quiet, tmp_path: Path, tiny_weights: Path
) -> None:
    """--bank-from takes them as they are, whatever the other images; none is encoded."""
    write_images(tmp_path / "other", 3, seed=9)
    told = Encoded()
    borrowing = replace(options_of(tiny_weights), bank_from=str(quiet.root))
    extract(tmp_path / "other", tmp_path / "s.fungi", borrowing, context=told.context)
    assert told.made == 0
    assert np.array_equal(bank_of(tmp_path / "s.fungi"), bank_of(quiet.root))


def test_a_dry_run_counts_the_bank(quiet: Quiet, tiny: Resolved) -> None:
    """Its two forwards a sample beside the five of a feature, and the bytes of its prototypes."""
    told = quiet.told
    assert told.forwards_per_image == 5
    assert bank_features(tiny, "deepcluster").forwards(frozenset(["deepcluster"])) == 2
    assert told.seconds[0] == pytest.approx(2 + IMAGES * 2 / 5)
    assert f"deepcluster: {IMAGES} prototypes, one a sample of the bank, not 3000" in told.remarks
    files = [path for path in quiet.root.rglob("*") if path.is_file()]
    assert told.bytes == pytest.approx(sum(path.stat().st_size for path in files), rel=0.02)


def test_blocks_are_written_as_they_get_old(
    quiet: Quiet, tiny: Resolved, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves is whole blocks; one of them that is damaged, or of other samples, is made
    again, with all behind it.
    """
    monkeypatch.setattr(bank_blocks, "BLOCK_SECONDS", 0.0)
    blocks = blocks_at(tmp_path)
    with pytest.raises(StoppedError):
        encode(tiny, source, blocks, Encoded(6))
    kept = {name: blocks.folder.read(name) for name in blocks.folder.list().files}
    names = [f"latents.{start:08d}.safetensors" for start in (0, 2, 4)]
    assert list(kept) == names
    middle = kept[names[1]]
    other = save({"latents": np.zeros((2, 2, 8), np.float32)})
    for data in (middle[:-1], middle[:-1] + b"!", kept[names[2]], b"", other):
        for name, whole in kept.items():
            blocks.folder.publish(name, whole)
        blocks.folder.publish(names[1], data)
        again = Encoded(1)
        with pytest.raises(StoppedError):
            encode(tiny, source, blocks, again)
        assert "deepcluster prototypes: going on after 2 images" in again.said
        assert blocks.folder.read(names[1]) == middle
    last = Encoded()
    assert np.array_equal(encode(tiny, source, blocks, last), bank_of(quiet.root))
    assert last.made == IMAGES - 6


def test_a_store_that_has_grown_begins_its_bank_anew(
    tiny: Resolved, source: Path, tmp_path: Path
) -> None:
    """The order of the samples is another one; what was made of the old one is not used."""
    blocks, told = blocks_at(tmp_path), Encoded()
    with pytest.raises(StoppedError):
        encode(tiny, source, blocks, Encoded(4))
    write_images(source / "more", 3, seed=5)
    found = encode(tiny, source, blocks, told)
    assert told.made == IMAGES + 3
    assert np.array_equal(found, encode(tiny, source))


def test_a_bank_depends_on_no_workers_and_in_no_more_than_last_digits_on_batches(
    quiet: Quiet, tiny: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on how many rows of the table are read at once: that is the same bits."""
    monkeypatch.setattr(banks, "ROWS_AT_ONCE", 5)
    alike = encode(replace(tiny, workers=3), quiet.source)
    assert np.array_equal(alike, bank_of(quiet.root))
    for batch_size in (4, 64):  # kernels differ between CPUs, and some by the number of rows
        other = encode(replace(tiny, batch_size=batch_size), quiet.source)
        np.testing.assert_allclose(other, bank_of(quiet.root), atol=1e-5)


def test_unreadable_images_are_no_prototypes(tiny: Resolved, source: Path, tmp_path: Path) -> None:
    """Of as many prototypes as samples there are fewer, also where a run goes on among broken ones.

    A number that was asked for and cannot be had is refused, with the number that can: before the
    first forward where the samples are too few, and behind the last where too few can be read.
    """
    for number in (1, 2, 5, 6):
        (source / f"{number:03d}.jpg").write_text("broken")
    blocks = blocks_at(tmp_path)
    with pytest.raises(StoppedError):
        encode(tiny, source, blocks, Encoded(2))
    with pytest.raises(StoppedError):
        encode(tiny, source, blocks, Encoded(1))
    whole, kept = encode(tiny, source), sorted(blocks.folder.list().files)
    assert whole.shape == (3, IMAGES - 4, 8)
    last = Encoded()
    assert np.array_equal(encode(tiny, source, blocks, last), whole)
    assert len(kept) == 2
    assert last.made < IMAGES - 4 - 2
    for asked, most, encoded in ((IMAGES - 3, IMAGES - 4, IMAGES - 4), (IMAGES + 1, IMAGES, 0)):
        objectives = {"deepcluster": replace(SMALL, prototypes=asked)}
        other = replace(tiny, options=replace(tiny.options, objectives=objectives))
        told = Encoded()
        with pytest.raises(UsageError, match=rf"deepcluster\.prototypes={most} or fewer"):
            encode(other, source, told=told)
        assert told.made == encoded


def test_a_bank_has_as_many_samples_as_it_may(tiny: Resolved, source: Path) -> None:
    """Also where the last batch has more of them, in the progress, too."""
    objectives = {"deepcluster": replace(SMALL, bank_samples=3)}
    told = Encoded()
    options = replace(tiny.options, objectives=objectives)
    found = encode(replace(tiny, options=options), source, told=told)
    assert (found.shape, told.made) == ((3, 3, 8), 3)


def test_a_further_layer_takes_the_bank_of_the_first(
    quiet: Quiet, tmp_path: Path, tiny_weights: Path
) -> None:
    """It is of embeddings, which no layer decides: nothing is encoded again."""
    root = shutil.copytree(quiet.root, tmp_path / "s.fungi")
    layers, told = ("blocks.5.attn.proj", "blocks.5.mlp.fc2"), Encoded()
    options = replace(options_of(tiny_weights), target_layer=layers)
    extract(quiet.source, root, options, context=told.context)
    assert "gradients/deepcluster@blocks.5.mlp.fc2" in Store.open(root).arrays(TINY)
    assert told.made == 0


def test_a_bank_of_one_image(tiny: Resolved, source: Path) -> None:
    """A train split of one image is one prototype."""
    (source / "train").mkdir()
    (source / "000.jpg").rename(source / "train" / "0.jpg")
    told = Encoded()
    assert encode(tiny, source, told=told).shape == (3, 1, 8)
    assert told.made == 1
    assert "deepcluster: 1 prototype, one a sample of the bank, not 3000" in told.said


def test_a_block_without_latents_is_one(tmp_path: Path) -> None:
    """Samples none of which could be read were tried all the same, and are not tried again."""
    blocks = BankBlocks(Folder(open_backend(tmp_path), "setups/x"))
    grows = OpenBlock(blocks, 0)
    grows.add(["a", "b"], np.zeros((0, 2, 3), np.float32))
    grows.write()
    grows.add(["c"], np.ones((1, 2, 3), np.float32))
    grows.write()
    grows.write()  # of nothing
    ids = ["a", "b", "c"]
    blocks.write(3, [], np.zeros((0, 2, 3), np.float32))  # it would follow itself for ever
    found = list(islice(blocks.read(lambda start, stop: ids[start:stop]), 9))
    assert [block.tried for block in found] == [2, 1]
    assert [block.latents.shape for block in found] == [(0, 2, 3), (1, 2, 3)]
    blocks.remove()
    blocks.remove()
    assert list(blocks.read(lambda start, stop: ids[start:stop])) == []


def test_each_block_has_an_age_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute after its own first sample it is written, however long the bank has been made."""
    now = 0.0
    monkeypatch.setattr(bank_blocks, "time", SimpleNamespace(monotonic=lambda: now))
    blocks = blocks_at(tmp_path)
    grows, counts = OpenBlock(blocks, 0), []
    for now in (1.0, 59.0, 60.0, 61.0, 119.0, 121.0):
        grows.add([str(now)], np.ones((1, 2, 3), np.float32))
        counts.append(len(blocks.folder.list().files))
    assert counts == [0, 0, 1, 1, 1, 2]


def test_latents_of_another_precision_are_not_gone_on_with(tiny: Resolved, tmp_path: Path) -> None:
    """Blocks are known by what decides them: the precision, but not the rows of a unit."""
    store = Store.open_or_create(tmp_path / "s.fungi")

    def folder(**changed: Any) -> str:
        config = array_configs(replace(tiny, **changed))["deepcluster"]
        return bank_blocks_of(store, config, "deepcluster").folder.key

    assert folder(unit_rows=4) == folder()
    assert folder(dtype=torch.bfloat16) != folder()


@pytest.mark.slow
@pytest.mark.parametrize("feature", ["deepcluster", "simclr"])
def test_a_bank_survives_kills(tmp_path: Path, tiny_weights: Path, feature: str) -> None:
    """SIGKILL while it is made, again and again: every file is that of one quiet run."""
    write_images(tmp_path / "images", 40, seed=4)
    program = tmp_path / "short_blocks.py"
    program.write_text(
        "import sys, time\n"
        "from fungistore.extraction import bank_blocks\n"
        "from fungistore.extraction.features import FeatureMaker\n"
        "bank_blocks.BLOCK_SECONDS = 0.0\n"
        "latents = FeatureMaker.latents\n"
        "def slow(*arguments):\n"
        "    time.sleep(0.1)\n"
        "    return latents(*arguments)\n"
        "FeatureMaker.latents = slow\n"
        "from fungi_cli.__main__ import main\n"
        "sys.exit(main())\n"
    )
    flags = ["--model", TINY, "--weights", tiny_weights, "--image-size", 32, "--device", "cpu"]
    flags += ["--features", feature, "--batch-size", 2, "--unit-rows", 8, "--set"]
    flags += ["simclr.negatives=30"]

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, program, "extract", tmp_path / "images", tmp_path / name]
        return subprocess.Popen(
            [str(one) for one in [*command, *flags]],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    assert start("quiet.fungi").wait() == 0
    root, seen = tmp_path / "s.fungi", 0
    for _ in range(3):
        process = start("s.fungi")
        while len(blocks_in(root)) < seen + 3 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(blocks_in(root)) >= seen + 3
        seen = len(blocks_in(root))
    assert start("s.fungi").wait() == 0
    assert not blocks_in(root)
    assert contents(root) == contents(tmp_path / "quiet.fungi")
