"""The command line: streams, exit codes, help, and errors that say what to do."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from fungi_cli.console import printable
from fungi_cli.main import app
from typer.main import get_command
from typer.testing import CliRunner, Result

from fungistore.machine.stopwatch import BESIDE, MEANINGS
from fungistore.quantities import duration, size
from fungistore.store.store import Store
from tiny_world import TINY, write_images

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
runner = CliRunner()


def fungi(*arguments: object, stdin: bytes | None = None) -> Result:
    return runner.invoke(app, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture(scope="module")
def quick(tiny_weights: Path) -> list[object]:
    """Flags of an extraction that takes a moment."""
    return ["--model", TINY, "--weights", tiny_weights, "--image-size", 32, "--dtype", "float32"]


@pytest.fixture(scope="module")
def finished(
    same_images: Path, quick: list[object], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What these flags make of `same_images`, which no test changes."""
    root = tmp_path_factory.mktemp("finished") / "s.fungi"
    assert fungi("extract", same_images, root, *quick).exit_code == 0
    return root


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """The same, of the test alone."""
    return Path(shutil.copytree(finished, tmp_path / "s.fungi"))


def commands() -> list[str]:
    """Return the words that name each command, such as "extract" and "eval knn"."""
    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        below = command.list_commands(None) if hasattr(command, "list_commands") else ()
        found += [f"{name} {word}" for word in below] or [name]
    return sorted(found)


@pytest.mark.parametrize("name", commands())
def test_every_command_has_examples_and_is_in_the_docs(name: str) -> None:
    """Each registered command shows runnable examples, offers --json, and is documented."""
    shown = fungi(*name.split(), "--help")
    assert shown.exit_code == 0
    assert "Examples:" in shown.stdout
    assert f"fungi {name}" in shown.stdout.split("Examples:")[1]
    assert "--json" in shown.stdout
    assert any(f"fungi {name}" in page.read_text(encoding="utf-8") for page in PAGES)


def test_help_imports_no_torch() -> None:
    """`fungi --help` needs neither torch nor numpy, which is what keeps it quick."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from fungi_cli.main import app\n"
        "assert CliRunner().invoke(app, ['extract', '--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'zarr', 'timm', 'pyarrow', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_extract_puts_one_json_object_on_stdout(
    images: Path, tmp_path: Path, quick: list[object]
) -> None:
    """--json prints the documented fields on stdout; talk and the next step go to stderr."""
    done = fungi("extract", images, tmp_path / "s.fungi", *quick, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["store"] == str(tmp_path / "s.fungi")
    assert (document["feature_set"], document["samples"], document["failed"]) == (TINY, 24, 0)
    assert document["units"]["done"] == document["units"]["total"]
    assert document["images_per_second"] > 0
    assert set(document["fingerprints"]) == {"embeddings", "kl"}
    assert f"next: fungi status {tmp_path / 's.fungi'}" in done.stderr


def test_a_profile_tells_where_the_time_went(
    images: Path, tmp_path: Path, quick: list[object]
) -> None:
    """--profile prints every stage after the result, and is one more key of --json."""
    shown = fungi("extract", images, tmp_path / "s.fungi", *quick, "--profile")
    assert shown.exit_code == 0, shown.stderr
    rows = {line.split()[0]: line.split() for line in shown.stdout.splitlines()[1:]}
    assert set(rows) == set(MEANINGS)
    assert all(float(rows[stage][1]) >= 0 for stage in MEANINGS)
    shares = [row[3] for stage, row in rows.items() if stage not in BESIDE]
    assert 50 < sum(float(share.rstrip("%")) for share in shares) <= 100.5
    done = fungi("extract", images, tmp_path / "t.fungi", *quick, "--profile", "--json")
    profile = json.loads(done.stdout)["profile"]
    assert all(profile[stage] > 0 for stage in ("decode", "draw", "trunk", "projection", "write"))
    plain = fungi("extract", images, tmp_path / "u.fungi", *quick, "--json")
    assert "profile" not in json.loads(plain.stdout)


def test_a_second_run_says_that_nothing_is_left(
    images: Path, tmp_path: Path, quick: list[object]
) -> None:
    """Resume is the default: the same command finds everything done."""
    fungi("extract", images, tmp_path / "s.fungi", *quick, "--unit-rows", 8, "--limit", 12)
    resumed = fungi("extract", images, tmp_path / "s.fungi", *quick, "--unit-rows", 8)
    assert "resuming: 1/3 units done, 0 failed inputs, 2 to go" in resumed.stderr
    again = fungi("extract", images, tmp_path / "s.fungi", *quick, "--unit-rows", 8, "--json")
    assert "nothing to do: all 3 units are done" in again.stderr
    assert json.loads(again.stdout)["units"]["computed"] == 0


def test_skipped_inputs_exit_3(images: Path, tmp_path: Path, quick: list[object]) -> None:
    """A run that had to skip an input exits 3, and status says why."""
    (images / "cat" / "000.jpg").write_text("text")
    done = fungi("extract", images, tmp_path / "s.fungi", *quick)
    assert done.exit_code == 3
    shown = fungi("status", tmp_path / "s.fungi")
    assert "failed   1" in shown.stdout
    assert fungi("extract", images, tmp_path / "s.fungi", *quick).exit_code == 3


def test_on_error_fail_exits_1(images: Path, tmp_path: Path, quick: list[object]) -> None:
    """--on-error fail names the file and the way on."""
    (images / "cat" / "000.jpg").write_text("text")
    done = fungi("extract", images, tmp_path / "s.fungi", *quick, "--on-error", "fail")
    assert done.exit_code == 1
    assert "cat/000.jpg" in done.stderr
    assert "--on-error skip" in done.stderr


def test_other_settings_exit_4(same_images: Path, store: Path, quick: list[object]) -> None:
    """A changed seed exits 4 and shows both values; --feature-set works beside it."""
    run = ["extract", same_images, store, *quick, "--seed", 7]
    refused = fungi(*run, "--json")
    assert refused.exit_code == 4
    assert "gradient.seed: stored 42, asked 7" in refused.stderr
    assert json.loads(refused.stdout)["exit_code"] == 4
    assert fungi(*run, "--feature-set", "other").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "test_vti"], ["unknown model", "did you mean", TINY]),
        (["--image-size", "100"], ["--image-size 100", "multiple of 16", "96 or 112"]),
        (["--features", "embeddings,colour"], ["--features", "embeddings, kl, dino", "colour"]),
        (["--unit-rows", "100"], ["--unit-rows", "power of two"]),
        (["--target-layer", "blocks.5.attn.prj"], ["--target-layer", "blocks.5.attn.proj"]),
        (["--set", "dino.crops=3"], ["dino", "crops", "local_crops"]),
        (["--set", "kl=3"], ["--set kl=3", "kl.FIELD=VALUE"]),
        (["--device", "tpu9"], ["--device tpu9", "cpu"]),
        (["--codec", "lzma"], ["codec", "zstd"]),
        (["--weights", "missing.safetensors"], ["no such weights file"]),
        (["--config", "missing.toml"], ["--config missing.toml"]),
        (["--pool", "3", "--features", "patches"], ["--pool 3", "divisor"]),
        (["--view-size", "huge"], ["view", "native"]),
        (["--view-size", "33"], ["--view-size 33", "multiple of 16"]),
        (["--set", "kl.temperature=inf"], ["kl.temperature", "above 0"]),
        (["--set", "kl.temperature=nan"], ["kl.temperature", "above 0"]),
        (["--device", "meta"], ["--device meta", "cpu"]),
    ],
)
def test_bad_flags_exit_2_and_say_what_would_do(
    images: Path, tmp_path: Path, quick: list[object], arguments: list[str], words: list[str]
) -> None:
    """Every unusable flag is named, with what it takes; no store is left behind."""
    refused = fungi("extract", images, tmp_path / "s.fungi", *quick, *arguments)
    assert refused.exit_code == 2, refused.output
    for word in words:
        assert word in refused.stderr
    assert not (tmp_path / "s.fungi").exists()


def test_bad_sources_exit_2(tmp_path: Path, quick: list[object]) -> None:
    """No such folder, an empty folder, a manifest without `path` or with a repeated id."""
    (tmp_path / "empty").mkdir()
    write_images(tmp_path / "real", 2)
    (tmp_path / "no_path.csv").write_text("thing,label\na.jpg,x\n")
    (tmp_path / "twice.csv").write_text("path,id\nreal/000.jpg,a\nreal/001.jpg,a\n")
    for source, words in {
        "nowhere": ["no such file or directory"],
        "empty": ["no images found"],
        "no_path.csv": ["path", "thing"],
        "twice.csv": ["'a'", "more than once"],
    }.items():
        refused = fungi("extract", tmp_path / source, tmp_path / "s.fungi", *quick)
        assert refused.exit_code == 2, (source, refused.output)
        assert all(word in refused.stderr for word in words), refused.stderr
    assert fungi("extract", tmp_path / "real", tmp_path / "s.fungi", *quick).exit_code == 0


def test_paths_come_through_a_pipe(images: Path, tmp_path: Path, quick: list[object]) -> None:
    """SOURCE - reads paths from stdin, newline- or NUL-separated."""
    paths = sorted(str(path) for path in images.rglob("*.jpg"))
    for separator in ("\n", "\0"):
        store = tmp_path / f"{ord(separator)}.fungi"
        done = fungi("extract", "-", store, *quick, "--json", stdin=separator.join(paths).encode())
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["samples"] == 24


def test_a_dry_run_prints_the_plan(images: Path, tmp_path: Path, quick: list[object]) -> None:
    """--dry-run tells images, units, bytes and a range of time, and leaves nothing."""
    shown = fungi("extract", images, tmp_path / "s.fungi", *quick, "--dry-run")
    words = [line.split()[0] for line in shown.stdout.splitlines()]
    assert words == ["found", "images", "units", "forwards", "bytes", "time", "transform"]
    assert shown.exit_code == 0, shown.stderr
    for word in (
        "found     24 images, 2 classes",
        "images    24",
        "units",
        "bytes",
        "free",
        "time",
    ):
        assert word in shown.stdout
    assert not (tmp_path / "s.fungi").exists()
    document = json.loads(
        fungi("extract", images, tmp_path / "s.fungi", *quick, "--dry-run", "--json").stdout
    )
    assert document["images"] == document["understood"]["samples"] == 24
    assert document["seconds"][0] <= document["seconds"][1]


def test_a_configuration_file_is_overridden_by_flags(
    images: Path, tmp_path: Path, quick: list[object]
) -> None:
    """--config gives settings and objective tables, flags win, and the result can be replayed."""
    config = tmp_path / "settings.toml"
    config.write_text('features = ["kl"]\nlimit = 5\n\n[kl]\ntemperature = 1\nhead-dim = 9\n')
    refused = fungi("extract", images, tmp_path / "s.fungi", *quick, "--config", config)
    assert refused.exit_code == 2
    assert "head-dim" in refused.stderr
    config.write_text('features = ["kl"]\nlimit = 5\n\n[kl]\ntemperature = 1\n')
    done = fungi("extract", images, tmp_path / "s.fungi", *quick, "--config", config, "--limit", 6)
    assert done.exit_code == 0, done.stderr
    (setup,) = (tmp_path / "s.fungi" / "setups").iterdir()
    assert json.loads((setup / "config.json").read_text())["kl"]["temperature"] == 1
    replayed = fungi(
        "extract", images, tmp_path / "again.fungi", "--config", setup / "options.json", "--json"
    )
    assert json.loads(replayed.stdout)["samples"] == 24  # the settings, not the run's length


def test_status_shows_what_is_there_and_what_is_missing(
    images: Path, tmp_path: Path, quick: list[object]
) -> None:
    """`fungi status` counts rows and units of every array, and its JSON has fingerprints."""
    fungi("extract", images, tmp_path / "s.fungi", *quick, "--limit", 10, "--unit-rows", 4)
    shown = fungi("status", tmp_path / "s.fungi")
    assert re.search(r"embeddings +10/24 +3/3", shown.stdout), shown.stdout
    assert "2 (cat, dog)" in shown.stdout
    document = json.loads(fungi("status", tmp_path / "s.fungi", "--json").stdout)
    (feature_set,) = document["feature_sets"]
    assert [array["name"] for array in feature_set["arrays"]] == [
        "embeddings",
        "gradients/kl",
        "norms/kl",
    ]
    assert all(len(array["fingerprint"]) == 32 for array in feature_set["arrays"])


def test_status_of_something_else_exits_2(tmp_path: Path) -> None:
    """A directory that is no store is refused with the command that makes one."""
    refused = fungi("status", tmp_path)
    assert refused.exit_code == 2
    assert "fungi extract" in refused.stderr


def test_a_damaged_store_exits_5(same_images: Path, store: Path, quick: list[object]) -> None:
    """A manifest that is no JSON exits 5."""
    (store / "store.json").write_text("{")
    assert fungi("status", store).exit_code == 5
    assert fungi("extract", same_images, store, *quick).exit_code == 5


def test_models_lists_sizes_without_downloading() -> None:
    """`fungi models` shows parameters, image size, width and target layer of matching names."""
    shown = fungi("models", "vit_tiny_patch16_224", "--json")
    assert shown.exit_code == 0, shown.stderr
    cards = {card["name"]: card for card in json.loads(shown.stdout)["models"]}
    card = cards["vit_tiny_patch16_224.augreg_in21k"]
    assert (card["image_size"], card["embedding_dim"], card["patch_size"]) == (224, 192, 16)
    assert card["target_layer"] == "blocks.11.attn.proj"
    assert 5e6 < card["parameters"] < 6e6
    assert "embedding" in fungi("models", "test_vit").stdout
    assert fungi("models", "no_such_model_*").exit_code == 2


def test_names_with_control_characters_cannot_steer_the_terminal(
    tmp_path: Path, quick: list[object]
) -> None:
    """Escape sequences and newlines in file names are shown, not obeyed."""
    write_images(tmp_path / "data", 1)
    (tmp_path / "data" / "\x1b[31mred\n.jpg").write_text("text")
    done = fungi("extract", tmp_path / "data", tmp_path / "s.fungi", *quick, "--on-error", "fail")
    assert done.exit_code == 1
    assert "\x1b" not in done.stderr
    assert r"\x1b[31mred" in done.stderr


def test_the_store_opens_with_plain_zarr(finished: Path) -> None:
    """Features are an ordinary zarr v3 group."""
    group = zarr.open_group(finished / "features.zarr", mode="r")
    array = group[f"{TINY}/embeddings"]
    assert isinstance(array, zarr.Array)
    assert array.shape == (24, 64)
    assert np.isfinite(np.asarray(array[:])).all()


def test_a_decompression_bomb_is_skipped(tmp_path: Path, quick: list[object]) -> None:
    """An image whose header declares 10^10 pixels is refused from its header and listed."""
    write_images(tmp_path / "data", 2)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    (tmp_path / "data" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    done = fungi("extract", tmp_path / "data", tmp_path / "s.fungi", *quick)
    assert done.exit_code == 3
    assert "pixels" in (tmp_path / "s.fungi" / "failures.jsonl").read_text()


def test_units_of_time_and_size() -> None:
    """Durations and sizes are shown in the units that matter."""
    assert [duration(s) for s in (5, 65, 3700)] == ["5 s", "1 min 05 s", "1 h 01 min"]
    assert [size(b) for b in (5, 5000, 5_000_000)] == ["5 B", "5.0 kB", "5.0 MB"]
    assert printable("a\x1bb\udcffc") == "a\\x1bb\\udcffc"


@pytest.mark.parametrize("name", ["../up", "a b", "zarr.json", "x.partial", "", ".", "n" * 200])
def test_unusable_feature_set_names_exit_2(
    images: Path, tmp_path: Path, quick: list[object], name: str
) -> None:
    """A feature set is a folder's name: what could leave the store or be swept is refused."""
    refused = fungi("extract", images, tmp_path / "s.fungi", *quick, "--feature-set", name)
    assert refused.exit_code == 2
    assert "--feature-set" in refused.stderr
    assert not (tmp_path / "s.fungi").exists()


def test_debug_shows_the_traceback_and_keeps_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fungi --debug adds a traceback to the message; the code stays the documented one."""
    monkeypatch.delenv("FUNGI_DEBUG", raising=False)
    shown = fungi("--debug", "status", tmp_path)
    monkeypatch.delenv("FUNGI_DEBUG", raising=False)
    assert shown.exit_code == 2
    assert "Traceback" in shown.stderr
    assert "not a fungi store" in shown.stderr
    assert "Traceback" not in fungi("status", tmp_path).stderr


def test_a_store_inside_its_source_is_not_a_class(tmp_path: Path, quick: list[object]) -> None:
    """`fungi extract . pets.fungi`, twice: the store is no folder of the source."""
    for split in ("train", "test"):
        write_images(tmp_path / "data" / split / "cat", 2)
    store = tmp_path / "data" / "pets.fungi"
    for _ in range(2):
        assert fungi("extract", tmp_path / "data", store, *quick).exit_code == 0
    document = json.loads(fungi("status", store, "--json").stdout)
    assert document["labels"] == ["cat"]
    assert document["splits"] == {"test": 2, "train": 2}


def test_another_source_with_the_same_names_is_refused(tmp_path: Path, quick: list[object]) -> None:
    """Two folders that both have cat/000.jpg are not one source: exit 2, nothing is added."""
    write_images(tmp_path / "a" / "cat", 2, seed=1)
    write_images(tmp_path / "b" / "cat", 5, seed=2)
    assert fungi("extract", tmp_path / "a", tmp_path / "s.fungi", *quick).exit_code == 0
    refused = fungi("extract", tmp_path / "b", tmp_path / "s.fungi", *quick)
    assert refused.exit_code == 2
    assert "names of other images" in refused.stderr
    assert json.loads(fungi("status", tmp_path / "s.fungi", "--json").stdout)["samples"] == 2
    assert fungi("extract", tmp_path / "a", tmp_path / "s.fungi", *quick).exit_code == 0


def test_a_second_writer_is_turned_away(
    same_images: Path, store: Path, quick: list[object]
) -> None:
    """While one process writes, another one is told so and changes nothing."""
    run = ["extract", same_images, store, *quick, "--features", "patches"]
    with Store.open(store).writing():
        refused = fungi(*run)
        assert fungi("status", store).exit_code == 0
    assert refused.exit_code == 1
    assert "another process is writing" in refused.stderr
    assert fungi(*run).exit_code == 0


def test_a_restart_forgets_failures_and_setups(
    images: Path, tmp_path: Path, quick: list[object]
) -> None:
    """After --restart on mended images nothing of the old run is left: exit 0, one setup each."""
    quick = [*quick, "--unit-rows", 16]  # part of a setup, and otherwise chosen by measuring
    whole = (images / "cat" / "000.jpg").read_bytes()
    (images / "cat" / "000.jpg").write_text("text")
    assert fungi("extract", images, tmp_path / "s.fungi", *quick).exit_code == 3
    (images / "cat" / "000.jpg").write_bytes(whole)
    beside = fungi("extract", images, tmp_path / "s.fungi", *quick, "--feature-set", "other")
    assert beside.exit_code == 0
    restarted = fungi("extract", images, tmp_path / "s.fungi", *quick, "--restart", "--seed", 5)
    assert restarted.exit_code == 0, restarted.stderr
    setups = list((tmp_path / "s.fungi" / "setups").iterdir())
    assert len(setups) == 3  # embeddings do not depend on the seed: both sets share theirs


def test_a_dry_run_of_nothing_exits_2(tmp_path: Path, quick: list[object]) -> None:
    """--dry-run refuses an empty folder as the run itself would."""
    (tmp_path / "empty").mkdir()
    refused = fungi("extract", tmp_path / "empty", tmp_path / "s.fungi", *quick, "--dry-run")
    assert refused.exit_code == 2
    assert "no images found" in refused.stderr
