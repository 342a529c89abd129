"""A modality, an encoder family and objectives of a plug-in, through every stage: no change to us.

What is stored is compared with plain autograd through the plug-in's own model.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from fungi_cli.main import app
from numpy.typing import NDArray
from torch import nn
from typer.testing import CliRunner

import toy_modality
from fungistore.backbones.families import FAMILIES
from fungistore.gradients.general import LayerPath
from fungistore.gradients.projection import ProjectionSpec
from fungistore.modalities.modality import MODALITIES
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import ViewOutputs
from fungistore.objectives.registry import OBJECTIVES
from fungistore.store.store import Store
from plugins import install, write_plugin
from toy_modality import LONGEST, WIDTH, Smooth, Toy, build

FEATURES = "embeddings,kl,thinned,smooth,patches"
TRAIN, TEST = 40, 12


@pytest.fixture
def here(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in is installed in this process too."""
    install(monkeypatch, site, "toy_modality", MODALITIES, FAMILIES, OBJECTIVES)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plug-in is installed."""
    folder = tmp_path_factory.mktemp("site")
    source = Path(toy_modality.__file__).read_text(encoding="utf-8")
    write_plugin(folder, "toy_modality", source, toy_modality.ENTRY_POINTS)
    return folder


def environment(site: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def fungi(site: Path, *arguments: object, code: int = 0) -> Any:
    """Run a command; return its JSON."""
    command = [sys.executable, "-m", "fungi_cli", *map(str, arguments), "--json"]
    done = subprocess.run(
        command, env=environment(site), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def in_process(*arguments: object, code: int = 0) -> Any:
    """The same command in this process, which is a good deal quicker."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == code, done.stderr
    return json.loads(done.stdout)


def sequences(kind: str, count: int, seed: int) -> list[NDArray[np.float64]]:
    """Low or high numbers, which overlap, of differing count."""
    random = np.random.default_rng(seed)
    low, high = (-2.0, 0.5) if kind == "low" else (-0.5, 2.0)
    lengths = random.integers(3, LONGEST + 1, count)
    return [random.uniform(low, high, length).round(3) for length in lengths]


def text_of(numbers: NDArray[np.float64]) -> str:
    return " ".join(map(str, numbers))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in class folders of two splits, one of them of no numbers."""
    root = tmp_path_factory.mktemp("toy") / "sequences"
    for split, count in (("train", TRAIN), ("test", TEST)):
        for seed, kind in enumerate(("low", "high")):
            (root / split / kind).mkdir(parents=True)
            for number, one in enumerate(sequences(kind, count // 2, seed + 2 * count)):
                (root / split / kind / f"{number:03}.num").write_text(text_of(one))
    (root / "train" / "low" / "broken.num").write_text("one two")
    (root / "train" / "low" / "notes.txt").write_text("no sample")
    return root


FLAGS = ["--model", "toy:class", "--features", FEATURES, "--device", "cpu", "--pool", "2"]
FLAGS += ["--dtype", "float32", "--unit-rows", "8", "--batch-size", "4"]


def extract(site: Path, source: object, store: Path, *more: object, code: int = 0) -> Any:
    return fungi(site, "extract", source, store, *FLAGS, *more, code=code)


@pytest.fixture(scope="module")
def store(site: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the folder."""
    path = tmp_path_factory.mktemp("stores") / "toy.fungi"
    done = extract(site, folder, path, code=3)
    assert (done["samples"], done["failed"]) == (TRAIN + TEST + 1, 1)
    assert done["feature_set"] == "toy-class"
    return path


def array(store: Path, name: str) -> NDArray[Any]:
    found = zarr.open_group(store / "features.zarr", mode="r")[f"toy-class/{name}"]
    assert isinstance(found, zarr.Array)
    return np.asarray(found[:])


def items(store: Path) -> dict[int, torch.Tensor]:
    """The readable sequences by row."""
    opened = Store.open(store)
    found = {}
    for row in opened.samples.rows(0, len(opened.samples)):
        if "broken" not in row["id"]:
            text = (Path(row["root"]) / row["uri"]).read_text()
            found[row["row"]] = torch.tensor([float(word) for word in text.split()])
    return found


def one(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values[None], torch.ones(1, len(values), dtype=torch.bool)


def test_embeddings_and_tokens_are_the_models(store: Path) -> None:
    """Each sequence alone, unpadded, gives the stored vector, cells of two tokens, and a length."""
    model = build("class")
    embeddings, cells = array(store, "embeddings"), array(store, "patches")
    lengths = array(store, "lengths/patches")
    assert cells.shape[1:] == (LONGEST // 2, WIDTH)
    for row, values in items(store).items():
        embedding, tokens = model(*one(values))
        np.testing.assert_allclose(embeddings[row], embedding[0], atol=5e-3)
        expected = [cell.mean(0).numpy() for cell in tokens[0].split(2)]
        assert lengths[row] == len(expected)
        np.testing.assert_allclose(cells[row, : len(expected)], expected, atol=5e-3)
        assert not cells[row, len(expected) :].any()
    broken = set(range(len(embeddings))) - items(store).keys()
    assert np.isnan(embeddings[list(broken)]).all()


def heads_of(store: Path, feature: str) -> nn.Linear:
    opened = Store.open(store)
    key = opened.arrays("toy-class")[f"gradients/{feature}"].fingerprint
    tensors = opened.setups.tensors(key, "tensors")
    head = nn.Linear(WIDTH, len(tensors["projection.bias"])).requires_grad_(False)
    head.weight.data = torch.from_numpy(tensors["projection.weight"])
    head.bias.data = torch.from_numpy(tensors["projection.bias"])
    return head


@pytest.mark.parametrize("feature", ["kl", "smooth"])
def test_gradients_are_autograds(store: Path, feature: str) -> None:
    """Of the embedding's loss and of the tokens', sequence by sequence, up to float16."""
    encoder = Toy("class", build("class"), "blocks.1.proj")
    heads = {"projection": heads_of(store, feature)}
    spec = ProjectionSpec("binary", WIDTH, WIDTH * (WIDTH + 1), seed=42)
    matrix = np.concatenate([spec.block(i) for i in range(spec.blocks)], axis=1)
    stored, norms = array(store, f"gradients/{feature}"), array(store, f"norms/{feature}")
    target = encoder.target.requires_grad_(True)
    for row, values in items(store).items():
        target.zero_grad()
        encoded = encoder.run(one(values))
        views = ViewOutputs(encoded.embeddings[None], (encoded.grid.unflatten(1, 1),))
        loss = KL() if feature == "kl" else Smooth()
        loss.losses(views, heads, None).sum().backward()
        assert target.weight.grad is not None
        assert target.bias.grad is not None
        gradient = torch.cat([target.weight.grad, target.bias.grad[:, None]], dim=1).flatten()
        projected = matrix.astype(np.float64) @ gradient.double().numpy() * WIDTH**-0.5
        length = np.linalg.norm(projected)
        np.testing.assert_allclose(norms[row], length, rtol=1e-3)
        np.testing.assert_allclose(stored[row], projected / length, atol=3e-3)


def test_a_loss_of_tokens_is_autograds_in_a_padded_batch() -> None:
    """Two views a sequence, in chunks, of lengths that differ: exact where one sees every token."""
    torch.manual_seed(0)
    values = torch.randn(3, 2, LONGEST)
    mask = torch.arange(LONGEST) < torch.tensor([[5, 3], [16, 9], [1, 12]])[..., None]
    encoder = Toy("mean", build("mean"), "blocks.0.fc1")
    heads = {"projection": nn.Linear(WIDTH, 4)}
    tape = LayerPath(encoder).record(
        zip(values.split(1, dim=1), mask.split(1, dim=1), strict=True), tokens=True
    )
    ours = tape.gradients(Smooth().losses(ViewOutputs(tape.embeddings, tape.tokens), heads, None))
    target = encoder.target.requires_grad_(True)
    for sample in range(3):
        target.zero_grad()
        encoded = encoder.run((values[sample], mask[sample]))
        grid = encoded.grid.unflatten(1, 2)
        loss = Smooth().losses(ViewOutputs(encoded.embeddings[None], (grid,)), heads, None)
        loss.sum().backward()
        assert target.weight.grad is not None
        assert target.bias.grad is not None
        expected = torch.cat([target.weight.grad, target.bias.grad[:, None]], dim=1)
        assert float((ours[sample] - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.slow
def test_the_store_is_evaluated_indexed_and_searched(site: Path, store: Path) -> None:
    """Neighbours tell low from high; a query is a file, an id, or the numbers themselves."""
    score = fungi(site, "eval", "knn", store, "--features", "embeddings,kl,thinned", "--k", 5)
    assert score["metrics"]["accuracy"] > 0.8
    fungi(site, "index", store, "--features", "embeddings,kl")  # whose view is no random one
    known = next(iter(items(store).items()))
    found = fungi(site, "search", store, text_of(known[1].numpy().round(3)), "--k", 3)
    (answer,) = found["answers"]
    assert (answer["kind"], answer["neighbours"][0]["row"]) == ("numbers", known[0])
    page = store.parent / "page.html"
    fungi(site, "search", store, "0 -1 0 1 2", "--html", page)
    assert "<code" in page.read_text()
    assert fungi(site, "verify", store)["findings"] == []


@pytest.mark.usefixtures("here")
def test_a_manifest_may_hold_the_items(folder: Path, store: Path) -> None:
    """Rows of a table instead of files: the same features."""
    paths = sorted(folder.rglob("*.num"))
    rows = [f'"{p.read_text()}",{p.relative_to(folder).as_posix()}' for p in paths]
    manifest = store.parent / "sequences.csv"
    manifest.write_text("\n".join(["numbers,id", *rows]) + "\n")
    inline = store.parent / "inline.fungi"
    in_process("extract", manifest, inline, *FLAGS, code=3)
    ids = [row["id"] for row in Store.open(store).samples.rows(0, len(paths))]
    inline_ids = [row["id"] for row in Store.open(inline).samples.rows(0, len(paths))]
    order = [inline_ids.index(one) for one in ids]
    ours, theirs = (array(path, "embeddings").astype(float) for path in (inline, store))
    np.testing.assert_allclose(ours[order], theirs, atol=5e-3, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--processes", "2"], ["--decode-in", "processes"]], ids=str)
def test_children_find_the_plugin(site: Path, folder: Path, store: Path, flags: list[str]) -> None:
    """Whoever reads, draws and computes: the same bits."""
    path = store.parent / f"{flags[0].strip('-')}.fungi"
    extract(site, folder, path, *flags, code=3)
    for name in Store.open(store).arrays("toy-class"):
        assert np.array_equal(array(path, name), array(store, name), equal_nan=True), name


@pytest.mark.slow
def test_a_killed_run_is_continued(site: Path, folder: Path, store: Path) -> None:
    """Killed at any moment, then the same command: the same bits as without a kill."""
    path = store.parent / "killed.fungi"
    command = [sys.executable, "-m", "fungi_cli", "extract", str(folder), str(path), *FLAGS]
    run = subprocess.Popen(command, env=environment(site), stderr=subprocess.DEVNULL)
    while run.poll() is None and not list(path.glob("commits/toy-class/*/*.json")):
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait(60)
    extract(site, folder, path, code=3)
    for name in Store.open(store).arrays("toy-class"):
        assert np.array_equal(array(path, name), array(store, name), equal_nan=True), name


@pytest.mark.usefixtures("here")
def test_what_a_modality_has_no_views_for_is_refused(folder: Path, tmp_path: Path) -> None:
    """DINO crops images: the error names the objective and the items, and nothing is written."""
    path = tmp_path / "s.fungi"
    flags = ["--model", "toy:mean", "--features", "dino", "--device", "cpu", "--dtype", "float32"]
    said = in_process("extract", folder, path, *flags, code=2)
    assert "dino has no views of sequences" in json.dumps(said)
    assert not path.exists()


@pytest.mark.usefixtures("here")
def test_models_of_a_plugin_are_listed() -> None:
    """Under the name that --model takes."""
    names = [card["name"] for card in in_process("models", "toy:")["models"]]
    assert names == ["toy:class", "toy:mean"]
