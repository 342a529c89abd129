"""The demo's sounds: Whisper as CTranslate2 stores it becomes transformers', prompts a table."""

from __future__ import annotations

import csv
import io
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fungistore.demo import sounds
from fungistore.demo.sounds import PROJECTIONS, QUERY, convert_whisper, prompts, whisper_tiny_folder
from fungistore.errors import FungiError

WIDTH, POSITIONS, BINS = 128, 50, 16


def ctranslate2(state: dict[str, np.ndarray], version: int = 6) -> io.BytesIO:
    """A file of CTranslate2: version, model, revision, arrays with name, shape, type and bytes."""
    types = {np.dtype("<f2"): 4, np.dtype("i1"): 1, np.dtype("<i2"): 2}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    content = struct.pack("<I", version) + text("WhisperSpec")
    content += struct.pack("<II", 3, len(state))
    for name, array in state.items():
        content += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        content += struct.pack("<BI", types[array.dtype], array.nbytes) + array.tobytes()
    return io.BytesIO(content + struct.pack("<I", 0))


def small_whisper() -> dict[str, np.ndarray]:
    """Arrays of a Whisper of two blocks, by CTranslate2's names."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv1/bias": (WIDTH,),
        "conv1/weight": (WIDTH, BINS, 3),
        "conv2/bias": (WIDTH,),
        "conv2/weight": (WIDTH, WIDTH, 3),
        "layer_norm/beta": (WIDTH,),
        "layer_norm/gamma": (WIDTH,),
        "position_encodings/encodings": (POSITIONS, WIDTH),
    }
    for block in ("layer_0/", "layer_1/"):
        for norm in ("self_attention/", "ffn/"):
            for kind in ("beta", "gamma"):
                shapes[f"{block}{norm}layer_norm/{kind}"] = (WIDTH,)
        for layer, out, entering in (
            ("self_attention/linear_0", 3 * WIDTH, WIDTH),
            ("self_attention/linear_1", WIDTH, WIDTH),
            ("ffn/linear_0", 96, WIDTH),
            ("ffn/linear_1", WIDTH, 96),
        ):
            shapes[f"{block}{layer}/weight"] = (out, entering)
            shapes[f"{block}{layer}/bias"] = (out,)
    random = np.random.default_rng(0)
    state = {f"encoder/{k}": random.normal(size=v).astype("<f2") for k, v in shapes.items()}
    return {
        "decoder/num_heads": np.array(6, "i1"),
        **state,
        "encoder/num_heads": np.array(2, "<i2"),
        "decoder/layer_0/ffn/linear_0/bias": np.zeros(3, "<f2"),
    }


def test_a_converted_whisper_is_transformers(tmp_path: Path) -> None:
    """Every weight of the encoder is in its place, and nothing else; the same bytes each time."""
    pytest.importorskip("transformers", reason="the extra fungistore[audio]")
    from fungistore.backbones.audio.whisper import WhisperEncoder
    from fungistore.backbones.families import load_backbone

    state = small_whisper()
    folder = convert_whisper(ctranslate2(state), tmp_path / "one")
    again = convert_whisper(ctranslate2(state), tmp_path / "two")
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (folder / file).read_bytes() == (again / file).read_bytes()
    assert json.loads((folder / "config.json").read_text())["encoder_attention_heads"] == 2
    encoder = load_backbone(f"audio:{folder}")
    assert isinstance(encoder, WhisperEncoder)
    assert (encoder.longest, encoder.log_mel.bins) == (2 * POSITIONS, BINS)
    weights = {name: value.numpy() for name, value in encoder.module.state_dict().items()}
    for place, theirs in (
        ("conv2.weight", "conv2/weight"),
        ("layers.1.fc2.weight", "layer_1/ffn/linear_1/weight"),
        ("layers.1.final_layer_norm.weight", "layer_1/ffn/layer_norm/gamma"),
        ("layers.0.self_attn_layer_norm.bias", "layer_0/self_attention/layer_norm/beta"),
        ("layers.0.self_attn.out_proj.bias", "layer_0/self_attention/linear_1/bias"),
        ("layer_norm.bias", "layer_norm/beta"),
    ):
        assert np.array_equal(weights[place], state[f"encoder/{theirs}"].astype(np.float32))
    fused = state["encoder/layer_1/self_attention/linear_0/weight"]
    for number, name in enumerate(PROJECTIONS):
        part = fused[number * WIDTH : (number + 1) * WIDTH].astype(np.float32)
        assert np.array_equal(weights[f"layers.1.self_attn.{name}.weight"], part)


def test_other_files_are_no_whisper(tmp_path: Path) -> None:
    """Another version, and one that ends too early; nothing is written."""
    whole = ctranslate2(small_whisper()).getvalue()
    with pytest.raises(FungiError, match="end too early"):
        convert_whisper(io.BytesIO(whole[:5000]), tmp_path / "new")
    with pytest.raises(FungiError, match="no Whisper") as error:
        convert_whisper(ctranslate2(small_whisper(), version=5), tmp_path / "new")
    assert "version 5" in str(error.value.found)
    assert not (tmp_path / "new").exists()


def test_a_changed_conversion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights in the cache are checked on every use."""
    monkeypatch.setenv("FUNGI_CACHE", str(tmp_path))
    convert_whisper(ctranslate2(small_whisper()), tmp_path / "whisper-tiny.en")
    with pytest.raises(FungiError, match="convert it again"):
        whisper_tiny_folder()


def rows_of(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def test_prompts_are_classes_and_speakers_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of both speakers alone, by their path; one is kept apart to search with."""
    names = {"train": ("a", "b", "digits/1", "only"), "test": ("a", "b", "digits/1", "other")}

    @contextmanager
    def unpacked(pin: object, context: object) -> Iterator[Path]:
        """Stands for Debian's package: a folder with a few files."""
        split = next(s for s, (own, _) in sounds.SPEAKERS.items() if own is pin)
        for name in names[split]:
            file = tmp_path / split / sounds.SPEAKERS[split][1] / f"{name}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{split} {name}")
        yield tmp_path / split

    monkeypatch.setattr(sounds, "unpacked", unpacked)
    table = prompts(tmp_path / "all")
    rows = rows_of(table)
    assert [row["label"] for row in rows] == ["a", "b", "digits/1"] * 2
    assert [row["split"] for row in rows] == ["train"] * 3 + ["test"] * 3
    for row in rows:
        text = (table.parent / row["path"]).read_text()
        assert text == f"{row['split']} {row['label']}"
    few = prompts(tmp_path / "few", count=1, heard="b")
    rows = rows_of(few)
    assert ["b", "train"] in [[row["label"], row["split"]] for row in rows]
    assert ["b", "test"] not in [[row["label"], row["split"]] for row in rows]
    assert (few.parent / QUERY).read_text() == "test b"


@pytest.mark.slow
def test_the_demo_of_sounds_ends_with_a_page(tmp_path: Path) -> None:
    """`make demo-audio`: real packages, five commands; the prompt that is asked for is found."""
    command = [sys.executable, "-m", "fungi_cli", "demo", str(tmp_path / "d"), "--of", "sounds"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    steps = json.loads(done.stdout)["steps"]
    assert [step["exit_code"] for step in steps] == [0] * 5
    assert "vm-goodbye" in json.dumps(steps[-1]["result"])
    assert (tmp_path / "d" / "near.html").exists()
