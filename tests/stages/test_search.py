"""Search: by id and by image, through the real tiny model; its page, its exit codes."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from PIL import Image
from typer.testing import CliRunner, Result

from feature_world import clustered, make_store
from fungistore.errors import ImageError, MismatchError, UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.matrices.blocks import open_features
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.searching.options import SearchOptions
from fungistore.searching.page import render_page
from fungistore.searching.search import search
from fungistore.store.store import Store
from tiny_world import TINY, write_images

BAD_NAME = "<script>alert(1)</script> & 'co'"
runner = CliRunner()


def fungi(*arguments: object, stdin: bytes | None = None) -> Result:
    return runner.invoke(app, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """A folder of images with an awkward class, its features, a PCA, and three indexes.

    Features were extracted one by one, so that each has frozen options of its own.
    """
    root = tmp_path_factory.mktemp("search")
    for seed, name in enumerate(["cat", "dog", BAD_NAME.replace("/", "-")]):
        write_images(root / "images" / name, 8, seed=seed)
    (root / "images/dog/broken.jpg").write_text("text")
    shared = {"model": TINY, "weights": str(tiny_weights), "image_size": 32, "dtype": "float32"}
    for features in (("embeddings",), ("kl",), ("dino", "simclr")):
        extra = {"simclr": {"negatives": 4}} if "simclr" in features else {}
        seed = {} if features == ("embeddings",) else {"seed": 7}
        config = {**shared, **extra, **seed, "features": list(features)}
        extract(str(root / "images"), root / "s.fungi", ExtractOptions.from_config(config))
    fit_pca(root / "s.fungi", PcaOptions(features=("embeddings", "kl"), dim=6, name="six"))
    build_index(root / "s.fungi", IndexOptions(name="all"))
    build_index(root / "s.fungi", IndexOptions(pca="six", metric="euclidean", name="pca"))
    build_index(root / "s.fungi", IndexOptions(features=("embeddings",), name="few"))
    return root


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may change."""
    shutil.copytree(world / "s.fungi", tmp_path / "copy.fungi")
    return tmp_path / "copy.fungi"


@pytest.mark.parametrize("index", ["all", "pca", "few"])
def test_an_image_of_the_store_finds_itself_and_what_its_id_finds(world: Path, index: str) -> None:
    """All features, random views included, are computed as they were stored."""
    path = world / "images/cat/003.jpg"
    by_file, by_id = search(
        world / "s.fungi", [str(path), "cat/003.jpg"], SearchOptions(index=index, k=8)
    ).answers
    first = by_file.neighbours[0]
    assert first.sample.id == "cat/003.jpg"
    assert first.distance == pytest.approx(0, abs=2e-3)
    assert (by_file.kind, by_id.kind) == ("image", "sample")
    rest = [n.sample.id for n in by_file.neighbours[1:]]
    assert rest == [n.sample.id for n in by_id.neighbours[:7]]
    ours = [n.distance for n in by_file.neighbours[1:]]
    np.testing.assert_allclose(ours, [n.distance for n in by_id.neighbours[:7]], atol=2e-3)
    assert [n.rank for n in by_id.neighbours] == list(range(1, 9))
    assert by_id.sample is not None
    assert by_id.sample.label == "cat"


def test_ids_get_the_neighbours_of_brute_force(world: Path) -> None:
    """By id: the k nearest by cosine, without the sample itself and without the unreadable one."""
    store = Store.open(world / "s.fungi")
    rows, vectors = open_features(store).load()
    ids = [row["id"] for row in store.samples.rows(0, len(store.samples))]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    far = 1 - unit @ unit.T
    np.fill_diagonal(far, np.inf)
    readable = [ids[row] for row in rows]
    found = search(world / "s.fungi", readable, SearchOptions(index="all", k=5))
    assert (found.vectors, found.excluded, found.is_exact) == (24, 1, True)
    for number, answer in enumerate(found.answers):
        order = np.argsort(far[number])[:5]
        assert [n.sample.row for n in answer.neighbours] == rows[order].tolist()
        np.testing.assert_allclose(
            [n.distance for n in answer.neighbours], far[number][order], atol=1e-5
        )


def test_a_copied_file_gets_views_of_its_own_by_its_content(world: Path, tmp_path: Path) -> None:
    """A file outside the store is no sample; its name does not matter, and it is near its twin."""
    for name in ("one.jpg", "two.jpg"):
        shutil.copy(world / "images/cat/003.jpg", tmp_path / name)
    queries = [str(tmp_path / "one.jpg"), str(tmp_path / "two.jpg")]
    one, two = search(world / "s.fungi", queries, SearchOptions(index="all", k=3)).answers
    assert one.sample is None
    assert one.neighbours == two.neighbours
    assert one.neighbours[0].sample.id == "cat/003.jpg"
    assert one.neighbours[0].distance > 1e-4  # other crops of the same picture


def test_what_cannot_be_answered_is_listed_and_the_rest_is_answered(world: Path) -> None:
    """A broken image, an unreadable sample and a typing error; exit 3, in the queries' order."""
    broken = world / "images/dog/broken.jpg"
    done = fungi(
        "search",
        world / "s.fungi",
        broken,
        "cat/001.jpg",
        "dog/broken.jpg",
        "cat/0O1.jpg",
        "--index",
        "all",
        "--json",
    )
    assert done.exit_code == 3, done.stderr
    document = json.loads(done.stdout)
    assert [answer["query"] for answer in document["answers"]] == ["cat/001.jpg"]
    failed = {one["query"]: one for one in document["failed"]}
    assert list(failed) == [str(broken), "dog/broken.jpg", "cat/0O1.jpg"]
    assert failed[str(broken)]["error"] == "ImageError"
    assert "no usable features" in failed["dog/broken.jpg"]["message"]
    assert "did you mean 'cat/001.jpg'" in failed["cat/0O1.jpg"]["message"]
    neighbour = document["answers"][0]["neighbours"][0]
    assert {"rank", "distance", "row", "id", "label", "uri", "root"} <= neighbour.keys()


def test_a_single_bad_query_is_the_error(world: Path) -> None:
    """One query: an unreadable image exits 1, an unknown name 2, and both say what to do."""
    with pytest.raises(ImageError):
        search(
            world / "s.fungi", [str(world / "images/dog/broken.jpg")], SearchOptions(index="all")
        )
    unknown = fungi("search", world / "s.fungi", "nothing.jpg", "--index", "all")
    assert unknown.exit_code == 2
    assert "neither an image file nor a sample id" in unknown.stderr
    with pytest.raises(UsageError, match="--k"):
        search(world / "s.fungi", ["cat/001.jpg"], SearchOptions(index="all", k=0))
    assert fungi("search", world / "s.fungi", "-", "--index", "all", stdin=b"").exit_code == 2


def test_an_index_must_be_named_where_there_are_several(world: Path) -> None:
    """The error lists what exists, for no name and for a wrong one."""
    for arguments in ([], ["--index", "nope"], ["--feature-set", "other", "--index", "all"]):
        done = fungi("search", world / "s.fungi", "cat/001.jpg", *arguments)
        assert done.exit_code == 2
        assert f"{TINY}: all, {TINY}: few, {TINY}: pca" in done.stderr


def test_queries_come_from_standard_input(world: Path) -> None:
    """- takes one query a line; the table names rank, label and id."""
    done = fungi(
        "search",
        world / "s.fungi",
        "-",
        "--index",
        "few",
        "-k",
        2,
        stdin=b"cat/001.jpg\r\n\ndog/002.jpg\n",
    )
    assert done.exit_code == 0, done.stderr
    assert "cat/001.jpg (cat)" in done.stdout
    assert "dog/002.jpg (dog)" in done.stdout
    assert done.stdout.count("rank") == 2


def test_more_neighbours_than_rows(tmp_path: Path) -> None:
    """Fewer rows than k: all others are returned, and it is said."""
    vectors, labels = clustered(4, 2, 8)
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    build_index(tmp_path / "s")
    done = fungi("search", tmp_path / "s", "000001.jpg", "--json")
    assert done.exit_code == 0
    assert "the index has 4 vectors, fewer than the 10 asked for" in done.stderr
    (answer,) = json.loads(done.stdout)["answers"]
    assert sorted(n["row"] for n in answer["neighbours"]) == [0, 2, 3]


def test_a_grown_store_is_searched_as_far_as_its_index_goes(tmp_path: Path) -> None:
    """Rows that came later are not found, can be queries, and fungi index is named."""
    vectors, labels = clustered(40, 2, 8)
    make_store(tmp_path / "s", {"embeddings": vectors[:20]}, labels[:20])
    build_index(tmp_path / "s")
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    done = fungi("search", tmp_path / "s", "000030.jpg", "--json")
    assert "20 of 40 rows; fungi index" in done.stderr
    (answer,) = json.loads(done.stdout)["answers"]
    assert all(n["row"] < 20 for n in answer["neighbours"])
    assert len(answer["neighbours"]) == 10


def test_other_weights_are_refused(copy: Path, tmp_path: Path, tiny_weights: Path) -> None:
    """Weights that are gone, or others, end an image search with exit 2 or 4; ids go on."""
    write_images(tmp_path / "new", 1)
    image = tmp_path / "new/000.jpg"
    from safetensors.torch import load_file, save_file

    state = load_file(tiny_weights)
    state["norm.weight"] = state["norm.weight"] + 1
    save_file(state, tmp_path / "other.safetensors")
    arguments = ["search", copy, image, "--index", "few", "--weights"]
    other = fungi(*arguments, tmp_path / "other.safetensors")
    assert other.exit_code == 4
    assert "backbone.weights: stored" in other.stderr
    gone = fungi(*arguments, tmp_path / "gone.safetensors")
    assert gone.exit_code == 2
    assert "no such weights file" in gone.stderr
    shutil.copy(tiny_weights, tmp_path / "moved.safetensors")
    assert fungi(*arguments, tmp_path / "moved.safetensors").exit_code == 0


def test_features_without_a_model_are_searched_by_id_alone(tmp_path: Path) -> None:
    """Imported features have no model: an image is a usage error that says so."""
    vectors, labels = clustered(6, 2, 8)
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    build_index(tmp_path / "s")
    write_images(tmp_path / "new", 1)
    with pytest.raises(UsageError, match="samples of the store need no model"):
        search(tmp_path / "s", [str(tmp_path / "new/000.jpg")])


def test_features_made_anew_are_refused(copy: Path, world: Path, tiny_weights: Path) -> None:
    """After another extraction under the same name, the index exits 4 and shows the fields."""
    options = ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=32,
        features=("embeddings",),
        dtype="float32",
        storage_dtype="float32",
    )
    extract(str(world / "images"), copy, options, restart=True)
    done = fungi("search", copy, "cat/001.jpg", "--index", "few")
    assert done.exit_code == 4
    assert f"fingerprints.{TINY}/embeddings" in done.stderr
    with pytest.raises(MismatchError, match="are gone"):
        search(copy, ["cat/001.jpg"], SearchOptions(index="all"))


def test_the_page_is_self_contained_and_escaped(world: Path, tmp_path: Path) -> None:
    """Every picture is a JPEG in the page; names and labels cannot become markup."""
    evil = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    shutil.copy(world / "images/cat/001.jpg", evil)
    name = BAD_NAME.replace("/", "-")
    page = tmp_path / "near.html"
    done = fungi(
        "search",
        world / "s.fungi",
        evil,
        f"{name}/002.jpg",
        "no <b>such</b>",
        "--index",
        "few",
        "--html",
        page,
    )
    assert done.exit_code == 3
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "<b>such" not in text
    assert "&lt;script&gt;alert(1)&lt;-script&gt; &amp; &#x27;co&#x27;" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/jpeg;base64,)""", text)
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(sources) == 22  # two queries with ten neighbours each
    with Image.open(io.BytesIO(base64.b64decode(sources[0]))) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert max(thumbnail.size) <= 320


def test_images_that_are_gone_get_a_placeholder(tmp_path: Path) -> None:
    """A page of a store whose images cannot be read any more still shows the neighbours."""
    vectors, labels = clustered(6, 2, 8)
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    build_index(tmp_path / "s")
    text = render_page(search(tmp_path / "s", ["000001.jpg"], SearchOptions(k=3)))
    assert text.count("image cannot be read") == 4
    assert 'class="label same"' in text


def test_fungi_index_prints_one_line_or_one_object(tmp_path: Path) -> None:
    """Results on stdout, the choice and the next step on stderr; other settings exit 4."""
    vectors, labels = clustered(100, 2, 8)
    vectors[3] = np.nan
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    done = fungi("index", tmp_path / "s")
    assert done.exit_code == 0, done.stderr
    assert "99 vectors of 8 values, cosine, Flat" in done.stdout
    assert "new index embeddings-cosine" in done.stderr
    assert "few enough for exact search" in done.stderr
    assert "excluded: 1 row " in done.stderr
    assert f"next: fungi search {tmp_path / 's'} QUERY --index embeddings-cosine" in done.stderr
    again = fungi("index", tmp_path / "s", "--json")
    assert "nothing to add" in again.stderr
    document = json.loads(again.stdout)
    assert (document["added"], document["excluded"], document["factory"]) == (0, 1, "Flat")
    refused = fungi("index", tmp_path / "s", "--name", "embeddings-cosine", "--factory", "HNSW8")
    assert refused.exit_code == 4
    assert "factory: stored 'Flat', asked 'HNSW8'" in refused.stderr
    assert fungi("index", tmp_path / "s", "--features", "kl").exit_code == 2
    assert fungi("index", tmp_path / "none").exit_code == 2
    assert not (tmp_path / "none").exists()


def test_both_commands_show_examples() -> None:
    """Help has runnable examples and --json."""
    for name in ("index", "search"):
        shown = fungi(name, "--help").stdout
        assert f"fungi {name}" in shown.split("Examples:")[1]
        assert "--json" in shown
