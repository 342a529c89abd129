"""`fungi demo`: the commands of the first page, run as they would be typed."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from fungi_cli.main import app
from fungi_cli.tour import (
    STORE,
    TEXTS,
    Step,
    Tour,
    first_page,
    sound_story,
    text_story,
    whole_story,
)
from typer.testing import CliRunner

from feature_world import clustered, make_store
from fungistore.demo.prepare import Demo, SoundDemo, TextDemo
from fungistore.errors import FungiError

FOLDER = Path("a folder")
DEMO = Demo(FOLDER, FOLDER / "images", FOLDER / "photo.jpg", "vit", Path("weights.safetensors"))
POSTS = TextDemo(FOLDER, FOLDER / "posts.csv", "a sentence", "text:minilm")
PROMPTS = SoundDemo(FOLDER, FOLDER / "prompts.csv", FOLDER / "bye.wav", "audio:whisper")
STEPS = [*first_page(DEMO), *whole_story(DEMO), *text_story(POSTS), *sound_story(PROMPTS)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder, with a space in its name, with a store as the demo's."""
    vectors, labels = clustered(20, 2, 4)
    make_store(tmp_path / "my demo" / STORE, {"embeddings": vectors}, labels)
    return tmp_path / "my demo"


def flags(command: str, sub: str) -> set[str]:
    """The flags of a command of the command line."""
    group = typer.main.get_command(app)
    found = group.commands[command]  # type: ignore[attr-defined]
    if command == "eval":
        found = found.get_command(typer.Context(found), sub)
    return {flag for one in found.params for flag in (*one.opts, *one.secondary_opts)}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.words[0])
def test_every_step_is_a_command_with_flags_that_it_has(step: Step) -> None:
    """What the demo types is what the command line takes today."""
    used = {word for word in step.words if word.startswith("--")}
    assert used <= flags(step.words[0], step.words[1])


def test_examples_of_texts_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's last step finds the file of the last time in its folder, and replaces it."""
    monkeypatch.chdir(tmp_path)
    vectors, labels = clustered(20, 2, 4)
    make_store(Path(TEXTS), {"embeddings": vectors}, labels, ["train", "test"] * 10)
    (words,) = [step.words for step in text_story(POSTS) if step.words[0] == "retrieve"]
    for _ in range(2):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.stderr
    assert "10 queries" in done.stdout


def test_a_step_is_shown_as_typed_and_its_json_kept(store: Path) -> None:
    """The command runs in the folder, and its one JSON object is part of the demo's."""
    said: list[str] = []
    tour = Tour(store, said.append, as_json=True)
    tour.take(Step("What is in it?", ("status", STORE)))
    assert said == ["", "What is in it?", f"$ fungi status {STORE}"]
    (taken,) = tour.taken
    assert taken["command"] == f"fungi status {STORE}"
    assert taken["exit_code"] == 0
    assert taken["result"]["samples"] == 20


def test_a_step_that_fails_ends_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command has said why; the demo says which one it was, and how to go on."""
    tour = Tour(tmp_path, print, as_json=False)
    with pytest.raises(FungiError, match="has said why") as caught:
        tour.take(Step("", ("status", "nowhere.fungi")))
    assert caught.value.where == "fungi status nowhere.fungi"
    assert caught.value.found == "exit code 2"
    assert "nowhere.fungi" in capfd.readouterr().err
    assert tour.taken == []


def demo(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "fungi_cli", "demo", *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_demo_stops_its_command_and_goes_on(
    number: int, code: int, tmp_path: Path
) -> None:
    """One signal to the demo reaches the command that runs; the same command line continues."""
    folder = tmp_path / "my demo"
    process = subprocess.Popen(demo(folder, "--images", 20), stderr=subprocess.PIPE, text=True)
    records = folder / STORE / "commits"
    while process.poll() is None and not list(records.rglob("*.json")):
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "Traceback" not in said
    before = len(list(records.rglob("00000000.json")))
    assert before > 0
    done = subprocess.run(
        demo(folder, "--images", 20, "--json"), capture_output=True, text=True, check=True
    )
    document = json.loads(done.stdout)
    assert "resuming" in done.stderr or document["steps"][0]["result"]["units_done"] > 0
    assert [step["command"].split()[1] for step in document["steps"]] == [
        "extract",
        "status",
        "eval",
        "index",
        "search",
    ]
    assert (folder / "near.html").is_file()
    following = done.stderr.splitlines()[-1]
    assert " --model vit_small_patch14_dinov2 --weights /" in following  # which need no hub


@pytest.mark.slow
def test_the_whole_story_is_stopped_in_the_middle_and_ends(tmp_path: Path) -> None:
    """`make demo`: the job is stopped by SIGTERM, the same command continues, a head is trained."""
    done = subprocess.run(
        demo(tmp_path / "new", "--images", 12, "--whole", "--json"),
        capture_output=True,
        text=True,
        check=True,
    )
    steps = json.loads(done.stdout)["steps"]
    codes = [step["exit_code"] for step in steps if step["command"].startswith("fungi extract")]
    assert codes == [0, 75, 0, 0]  # the dry run, the stop, what was left, the patch tensors
    assert steps[-1]["command"].startswith("fungi predict")


def test_the_demo_does_what_the_first_page_does() -> None:
    """The same commands in the same order, but for the weights: the page has them from the hub."""
    page = (Path(__file__).parents[2] / "docs" / "getting-started.md").read_text(encoding="utf-8")
    own = page.split("## Your own images")[1].split("\n## ")[0].replace("\\\n   ", "")
    typed = [shlex.split(line.removeprefix("$ ")) for line in own.splitlines() if line[:2] == "$ "]
    steps = [["fungi", *step.words] for step in first_page(DEMO)]
    assert typed[1:] == steps[1:]
    page_flags, demo_flags = set(typed[0]), set(steps[0])
    assert page_flags - demo_flags == {"images/", "vit_small_patch14_dinov2.lvd142m"}
    assert demo_flags - page_flags >= {"--weights", "--unit-rows"}
