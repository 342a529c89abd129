"""Whisper's encoder: its log mels and tokens are transformers' own, its gradients autograd's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="the extra fungistore[audio]")
pytest.importorskip("soundfile", reason="the extra fungistore[audio]")

import soundfile as sf
import transformers as hf

import fungistore as fungi
from fungistore.backbones.audio.whisper import WhisperEncoder
from fungistore.backbones.families import load_backbone
from fungistore.errors import UsageError
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path
from fungistore.modalities.audio.log_mel import LogMel, LogMelViews, mel_weights
from fungistore.modalities.audio.recording import Recording
from fungistore.modalities.audio.recordings import Recordings
from fungistore.modalities.requests import NoisyRolls
from fungistore.modalities.views import Inputs
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import ViewOutputs
from fungistore.randomness import Stream
from fungistore.store.store import Store

WIDTH, POSITIONS = 32, 500  # ten seconds


def save_whisper(folder: Path, seed: int = 0, kind: str = "WhisperModel", **other: Any) -> Path:
    """A tiny random Whisper in a directory."""
    torch.manual_seed(seed)
    config = hf.WhisperConfig(
        **{
            "vocab_size": 60,
            "num_mel_bins": 16,
            "d_model": WIDTH,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_source_positions": POSITIONS,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 3,
        }
        | other
    )
    model = getattr(hf, kind)(config)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


def load(folder: Path, target: str | None = None, **settings: Any) -> WhisperEncoder:
    encoder = load_backbone(f"audio:{folder}", target_layer=target, own_settings=settings)
    assert isinstance(encoder, WhisperEncoder)
    return encoder


def recording(seconds: float, rate: int = 16000, seed: int = 0) -> Recording:
    noise = np.random.default_rng(seed).normal(size=int(seconds * rate)).cumsum()
    return Recording((noise / np.abs(noise).max()).astype(np.float32), rate)


def inputs_of(views: LogMelViews, item: Recording, count: int = 1) -> Inputs:
    drawn = tuple(torch.from_numpy(array)[None] for array in views.draw(item, Stream(0)))
    return views.render(drawn, 0, slice(0, count))


def longer(inputs: Inputs, frames: int) -> Inputs:
    """The same view in another length class: its silence goes on."""
    banks, *masks = inputs
    more = frames - banks.shape[-1]
    silence = banks[..., -1:].expand(*banks.shape[:-1], more)
    padded = (nn.functional.pad(mask, (0, more)) for mask in masks)
    return torch.cat([banks, silence], -1), *padded


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("seconds", [0.003, 0.5, 1.0, 2.003, 29.999, 30.0, 31.0])
def test_log_mels_are_whispers(seconds: float, bins: int) -> None:
    """Frames of transformers' extractor on its whole window; behind them all is one value."""
    extractor = hf.WhisperFeatureExtractor(feature_size=bins)
    np.testing.assert_allclose(mel_weights(bins), extractor.mel_filters, atol=1e-12)
    item = recording(seconds)
    found, own, whole = LogMelViews(LogMel(bins)).draw(item, Stream(0))
    window = np.pad(item.samples, (0, max(0, 480000 - len(item.samples))))[None, :480000]
    expected = extractor._np_extract_fbank_features(window, "cpu")[0]
    np.testing.assert_allclose(found[0], expected[:, : found.shape[-1]], atol=1e-5)
    behind = expected[:, found.shape[-1] :]
    assert np.ptp(np.append(behind, found[0, 0, -1])) < 1e-6 or found.shape[-1] == 3000
    assert (own, whole) == (min(3000, -(-len(item.samples) // 160)), -(-len(item.samples) // 160))


def test_lengths_depend_on_the_recording_alone() -> None:
    """Two lengths from one power of two to the next, the window at most."""
    found = {LogMel().padded_length(frames) for frames in range(1, 3100)}
    assert sorted(found) == [100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, 3000]
    assert LogMel(longest=70).padded_length(3) == 70


def test_tokens_are_whispers_where_the_window_is_full(folder: Path) -> None:
    """A recording as long as the window: transformers' own forward, and the mean of its tokens."""
    encoder = load(folder)
    item = recording(POSITIONS / 50)
    views = encoder.base_view
    banks = inputs_of(views, item)[0][0]
    own = hf.WhisperModel.from_pretrained(folder).encoder.eval()
    with torch.no_grad():
        expected = own(banks).last_hidden_state
        found = encoder.run(tuple(one[0] for one in inputs_of(views, item)))
    assert found.grid is not None
    torch.testing.assert_close(found.grid.tokens, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.embeddings, expected.mean(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seconds", [0.5, 1.31])
def test_gradients_are_autograds_and_padding_changes_nothing(folder: Path, seconds: float) -> None:
    """The KL gradient of one recording in its own length and in the window's, by hand as well."""
    encoder, plain = load(folder), load(folder)
    inputs = inputs_of(encoder.base_view, recording(seconds))
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, 8).requires_grad_(False)
    path = gradient_path(encoder)
    assert isinstance(path, LayerPath)

    def losses(embeddings: Tensor) -> Tensor:
        objective = KL(head_dim=8, temperature=1.0)
        return objective.losses(ViewOutputs(embeddings), {"projection": head})

    target = plain.target
    assert target is not None
    assert plain.target_layer == "layers.1.self_attn.out_proj"
    parameters = [target.weight.requires_grad_(), target.bias.requires_grad_()]
    tokens, own = plain.tokens(tuple(one[0] for one in inputs))
    mean = tokens[0, own[0]].mean(0)
    weight, bias = torch.autograd.grad(losses(mean[None, None]).sum(), parameters)
    gradient = torch.cat([weight, bias[:, None]], dim=1)
    for padded in (inputs, longer(inputs, 2 * POSITIONS)):
        tape = path.record([padded])
        torch.testing.assert_close(tape.embeddings[0, 0], mean.detach(), atol=1e-5, rtol=1e-5)
        found = tape.gradients(losses(tape.embeddings))[0]
        assert (found - gradient).norm() <= 1e-5 * gradient.norm()


def test_silence_is_heard_as_far_as_it_is_said(folder: Path) -> None:
    """Two seconds of it change the tokens; what would follow them does not."""
    encoder = load(folder)
    banks, own, heard = (one[0] for one in inputs_of(encoder.base_view, recording(0.5)))
    assert (own.sum(), heard.sum()) == (50, 250)
    with torch.no_grad():
        embedding = encoder.run((banks, own, heard)).embeddings
        changed = banks.clone()
        changed[..., 253:] = 5
        torch.testing.assert_close(encoder.run((changed, own, heard)).embeddings, embedding)
        changed[..., 240:] = 5
        assert not torch.allclose(encoder.run((changed, own, heard)).embeddings, embedding)
        assert not torch.allclose(encoder.run((banks, own, own)).embeddings, embedding)


def test_copies_are_rolled_within_the_recording(folder: Path) -> None:
    """Without noise a copy is the recording's own frames in a circle, and silence behind them."""
    encoder = load(folder)
    item, request = recording(0.5), NoisyRolls(4, noise=0.0, roll=10)
    views = Recordings().recipe(request, encoder, "model")
    assert views is not None
    assert [(group.count, group.size) for group in views.groups] == [(4, 2 * POSITIONS)]
    base = encoder.base_view.draw(item, Stream(0))[0][0]
    copies, again = (views.draw(item, Stream(3)) for _ in range(2))
    other = views.draw(item, Stream(4))
    assert np.array_equal(copies[0], again[0])
    assert not np.array_equal(copies[0], other[0])
    for copy in copies[0]:
        shifts = [
            s for s in range(-10, 10) if np.allclose(np.roll(base[:, :50], s, 1), copy[:, :50])
        ]
        assert len(shifts) == 1
        np.testing.assert_allclose(copy[:, 50:], base[0, -1])
    for before in (True, False):
        noisy = LogMelViews(encoder.log_mel, NoisyRolls(2, 0.1, 1, before)).draw(item, Stream(0))[0]
        greatest = np.abs(np.sort(noisy[0, :, :50]) - np.sort(base[:, :50])).max()
        assert 0 < greatest < (0.1 / 4 if before else 0.1)


def test_a_trunk_in_half_precision_is_near(folder: Path) -> None:
    """The convolutions and the first block in bfloat16; the last block and the norm exact."""
    exact, half = load(folder), load(folder)
    inputs = inputs_of(exact.base_view, recording(1.0))
    one, other = (
        gradient_path(exact).record([inputs]),
        gradient_path(half, torch.bfloat16).record([inputs]),
    )
    cosine = nn.functional.cosine_similarity(one.embeddings, other.embeddings, dim=-1)
    assert 0.99 < cosine.item() < 1
    with pytest.raises(UsageError, match="eight bits"):
        gradient_path(load(folder), torch.int8)


def test_what_decides_is_in_the_identity(folder: Path, tmp_path: Path) -> None:
    """Weights, configuration and length; the place and the decoder are not."""
    before = load(folder).identity()
    assert load(folder, max_length=200).identity() != before
    assert load(save_whisper(tmp_path / "seed", seed=1)).identity()["weights"] != before["weights"]
    assert load(save_whisper(tmp_path / "heads", encoder_attention_heads=2)).identity() != before
    generating = save_whisper(tmp_path / "whole", kind="WhisperForConditionalGeneration")
    assert load(generating).identity() == before
    assert load(generating).remarks[-1] == "left out: the decoder"


def test_what_it_cannot_do_is_refused(folder: Path, tmp_path: Path) -> None:
    """Lengths without positions, other poolings, frames and missing weights."""
    from safetensors.torch import load_file, save_file

    with pytest.raises(UsageError, match="no positions") as error:
        load(folder, max_length=1001)
    assert "1000" in str(error.value.expected)
    with pytest.raises(UsageError, match="no class token"):
        load(folder, pooling="class")
    other = save_whisper(tmp_path / "other")
    (other / "preprocessor_config.json").write_text(json.dumps({"hop_length": 320}))
    with pytest.raises(UsageError, match="other frames") as error:
        load(other)
    assert error.value.found == 320
    for content in ("nonsense", "[]"):
        (other / "preprocessor_config.json").write_text(content)
        with pytest.raises(UsageError, match="no JSON"):
            load(other)
    (other / "preprocessor_config.json").unlink()
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"encoder_layers": 1}))
    with pytest.raises(UsageError, match="would compute without"):
        load(other)
    (other / "config.json").write_text(json.dumps(config))
    tensors = load_file(other / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "encoder.layers.1.fc1" not in k},
        other / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(UsageError, match="lacks weights"):
        load(other)


def test_features_do_not_depend_on_company(folder: Path, tmp_path: Path) -> None:
    """Eight recordings of several lengths and rates, together and alone, to the bit."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    lengths = (0.05, 0.3, 1.0, 1.02, 2.5, 0.3, 12.0, 0.9)
    for number, seconds in enumerate(lengths):
        item = recording(seconds, 8000 if number % 2 else 16000, number)
        sf.write(sounds / f"{number}.wav", item.samples, item.rate)
    extract = {"model": f"audio:{folder}", "features": ("embeddings", "kl"), "device": "cpu"}
    together = fungi.extract(sounds, tmp_path / "all.fungi", fungi.ExtractOptions(**extract))
    alone = tmp_path / "alone"
    alone.mkdir()
    (sounds / "4.wav").rename(alone / "4.wav")
    one = fungi.extract(alone, tmp_path / "one.fungi", fungi.ExtractOptions(**extract))
    assert (together.failed, one.failed) == (0, 0)
    of_all, of_one = (
        Store.open(tmp_path / f"{name}.fungi").arrays("audio-tiny") for name in ("all", "one")
    )
    for feature in ("embeddings", "gradients/kl"):
        rows = of_all[feature].read(0, 8)
        assert np.array_equal(rows[4], of_one[feature].read(0, 1)[0])
        assert np.isfinite(rows).all()
        assert not np.array_equal(rows[4], rows[3])
