"""Audio spectrogram transformers: embeddings are the model's own, gradients are autograd's.

The oracles are transformers' own forward, autograd through it, and for SSAST its architecture
written anew, with the names of its checkpoints.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fungi_cli.main import app
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

pytest.importorskip("transformers", reason="the extra fungistore[audio]")
pytest.importorskip("soundfile", reason="the extra fungistore[audio]")

import soundfile
import transformers as hf

from fungistore.backbones.audio.positions import positions_for
from fungistore.backbones.audio.spectrograms import SpectrogramEncoder
from fungistore.backbones.encoder import Encoder
from fungistore.backbones.families import load_backbone
from fungistore.errors import UsageError
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.result import ExtractResult
from fungistore.extraction.stage import extract
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path
from fungistore.machine.context import Context
from fungistore.modalities.audio.recording import Recording
from fungistore.modalities.views import Measured
from fungistore.objectives.deepcluster import DeepCluster
from fungistore.objectives.ibot import IBOT
from fungistore.objectives.kl import KL
from fungistore.objectives.mlm import MLM
from fungistore.objectives.objective import Objective, ViewOutputs
from fungistore.objectives.views import recipe_of
from fungistore.randomness import Stream
from fungistore.report import Silent
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store

BINS, FRAMES, WIDTH, RATE = 20, 44, 32, 16000
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "patch_size": 8,
    "frequency_stride": 6,
    "time_stride": 6,
    "max_length": FRAMES,
    "num_mel_bins": BINS,
}
GRID = (3, 7)
CARD = {
    "feature_extractor_type": "ASTFeatureExtractor",
    "max_length": FRAMES,
    "num_mel_bins": BINS,
    "sampling_rate": RATE,
    "do_normalize": True,
    "mean": -5.0,
    "std": 4.0,
}
QUIET = Context(reporter=Silent())


def save_ast(folder: Path, *, seed: int = 0, card: Any = None, **more: Any) -> Path:
    """Write a tiny AST with a classifier, as published ones have it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = hf.ASTForAudioClassification(hf.ASTConfig(**SIZES | more))
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(CARD | (card or {})))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ast(tmp_path_factory.mktemp("models") / "ast")


def load(folder: Path | str, weights: Path | None = None, **settings: Any) -> SpectrogramEncoder:
    target = settings.pop("target_layer", None)
    encoder = load_backbone(
        f"audio:{folder}", weights=weights, target_layer=target, own_settings=settings
    )
    assert isinstance(encoder, SpectrogramEncoder)
    return encoder


def sound(seconds: float = 0.4, seed: int = 0) -> Recording:
    """A tone in noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    noise = 0.05 * np.random.default_rng(seed).normal(size=len(time))
    return Recording((0.3 * np.sin(2000 * (1 + seed) * time) + noise).astype(np.float32), RATE)


def view_of(encoder: SpectrogramEncoder, recording: Recording) -> Tensor:
    """The base view [1, 1, frames, bins]."""
    arrays = encoder.base_view.draw(recording, Stream(0))
    drawn = tuple(torch.from_numpy(array)[None] for array in arrays)
    (view,) = encoder.base_view.render(drawn, 0, slice(0, 1))
    return view


def test_embeddings_and_tokens_are_transformers(folder: Path) -> None:
    """The pooled output of its own model for its own extractor's input; places as it has them."""
    encoder = load(folder)
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder.base_view, Measured)
    assert encoder.token_shape == GRID
    assert encoder.said == ("left out: classifier",)
    model = hf.ASTModel.from_pretrained(folder).eval()
    extractor = hf.ASTFeatureExtractor.from_pretrained(folder)
    for recording in (sound(), sound(1.0)):  # 38 frames are filled up, 98 are cut off
        shown = extractor(recording.samples, sampling_rate=RATE, return_tensors="pt")
        found = encoder.run((view_of(encoder, recording)[:, 0],))
        with torch.no_grad():
            expected = model(**shown)
        torch.testing.assert_close(found.embeddings, expected.pooler_output, atol=1e-4, rtol=1e-4)
        assert found.grid is not None
        for row, column in ((0, 0), (1, 4), (2, 6)):
            token = expected.last_hidden_state[:, 2 + row * GRID[1] + column]
            torch.testing.assert_close(
                found.grid.tokens[:, row, column], token, atol=1e-4, rtol=1e-4
            )
    mean = load(folder, pooling="mean").run((view_of(encoder, sound())[:, 0],))
    tokens = encoder.run((view_of(encoder, sound())[:, 0],)).grid
    assert tokens is not None
    torch.testing.assert_close(mean.embeddings, tokens.tokens.mean((1, 2)))


def losses(embeddings: Tensor, head: nn.Linear) -> Tensor:
    return KL(head_dim=8, temperature=1.0).losses(ViewOutputs(embeddings), {"projection": head})


def test_gradients_are_autograds(folder: Path) -> None:
    """Of both tokens; or, as FUNGI's code, the outer product of the first one's two vectors."""
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, 8).requires_grad_(False)
    encoder = load(folder)
    view = view_of(encoder, sound())
    target = encoder.module.layers[-1].attention.o_proj
    assert encoder.target is target
    caught: list[Tensor] = []
    hook = target.register_forward_hook(
        lambda _, entered, output: caught.extend([entered[0], output.requires_grad_()])
    )
    tokens = encoder.module(input_values=view[:, 0]).last_hidden_state
    hook.remove()
    embedding = (tokens[:, 0] + tokens[:, 1])[:, None] / 2
    (back,) = torch.autograd.grad(losses(embedding, head).sum(), caught[1])
    entered = functional.pad(caught[0], (0, 1), value=1.0)
    by_token = torch.einsum("to,ti->toi", back[0], entered[0])
    assert by_token[2:].abs().max() == 0
    for kind, expected in (("pooled", by_token.sum(0)), ("first", by_token[0])):
        encoder = load(folder, gradient_tokens=kind)
        path = gradient_path(encoder)
        assert isinstance(path, LayerPath)
        tape = path.record([(view,)])
        torch.testing.assert_close(tape.embeddings, embedding, atol=1e-6, rtol=1e-6)
        found = tape.gradients(losses(tape.embeddings, head))[0]
        assert (found - expected).norm() <= 1e-5 * expected.norm()
    with pytest.raises(UsageError, match="no first token"):
        load(folder, gradient_tokens="first", pooling="mean")


def test_a_trunk_in_half_precision_is_near(folder: Path) -> None:
    """With bfloat16 up to the last block embeddings keep their direction; int8 is refused."""
    exact, half = load(folder), load(folder)
    view = view_of(exact, sound())
    one = gradient_path(exact).record([(view,)]).embeddings.detach()
    other = gradient_path(half, torch.bfloat16).record([(view,)]).embeddings.detach()
    assert half.module.embeddings.cls_token.dtype == torch.bfloat16
    assert half.module.layers[-1].mlp.fc1.weight.dtype == torch.float32
    assert 0.99 < functional.cosine_similarity(one, other, dim=-1).item() < 1
    with pytest.raises(UsageError, match="eight bits"):
        gradient_path(load(folder), torch.int8)


def resampled(positions: np.ndarray, times: int, frequencies: int) -> np.ndarray:
    """SSAST's rule in NumPy: along each axis the middle, or half-pixel linear interpolation."""

    def along(values: np.ndarray, wanted: int) -> np.ndarray:
        there = len(values)
        if wanted <= there:
            start = there // 2 - wanted // 2
            return values[start : start + wanted]
        places = np.clip((np.arange(wanted) + 0.5) * there / wanted - 0.5, 0, None)
        low = np.floor(places).astype(int)
        high, part = np.minimum(low + 1, there - 1), (places - low)[:, None, None]
        return values[low] * (1 - part) + values[high] * part

    over_time = along(positions.swapaxes(0, 1), times).swapaxes(0, 1)
    return along(over_time, frequencies)


@pytest.mark.parametrize("grid", [(12, 50), (12, 12), (8, 101), (5, 64), (3, 7), (8, 64)])
def test_positions_of_another_grid_are_ssasts(grid: tuple[int, int]) -> None:
    """Those of ESC-50 (12 x 50) and Speech Commands (12 x 12), longer ones, and fewer bins."""
    trained = np.random.default_rng(0).normal(size=(8, 64, 3)).astype(np.float32)
    found = positions_for(torch.from_numpy(trained), grid).numpy()
    assert found.shape == (*grid, 3)
    np.testing.assert_allclose(found, resampled(trained, grid[1], grid[0]), atol=1e-5)


def test_another_length_has_other_positions(folder: Path) -> None:
    """Patches of shorter recordings have the middle positions; prefix tokens keep their own."""
    whole, short = load(folder), load(folder, max_length=26)
    assert (short.token_shape, short.frames) == ((3, 4), 26)
    there = whole.module.embeddings.position_embeddings[0]
    here = short.module.embeddings.position_embeddings[0]
    assert torch.equal(here[:2], there[:2])
    grid = there[2:].unflatten(0, GRID)
    assert torch.equal(here[2:].unflatten(0, (3, 4)), grid[:, 1:5])
    assert short.weights_hash == whole.weights_hash
    assert short.run((view_of(short, sound())[:, 0],)).embeddings.shape == (1, WIDTH)
    with pytest.raises(UsageError, match="shorter than one patch"):
        load(folder, max_length=7)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("statistics", (-6.6268077, 5.358466)),
        ("max_length", 26),
        ("pooling", "mean"),
        ("gradient_tokens", "first"),
    ],
)
def test_what_decides_is_in_the_identity(folder: Path, setting: str, value: Any) -> None:
    """Each setting of the user's."""
    before, other = load(folder).identity(), load(folder, **{setting: value})
    assert other.identity() != before
    assert json.loads(json.dumps(before)) == before
    if setting == "statistics":
        bank = other.filter_bank(sound())[0]
        shown = view_of(other, sound())[0, 0, 0].numpy()
        np.testing.assert_allclose(shown, (bank + 6.6268077) / (2 * 5.358466), atol=1e-6)


def test_weights_and_cards_are_in_the_identity(folder: Path, tmp_path: Path) -> None:
    """Weights, architecture, sampling rate, statistics; the directory's place is not."""
    before = load(folder).identity()
    assert load(save_ast(tmp_path / "same")).identity() == before
    assert load(save_ast(tmp_path / "weights", seed=1)).identity() != before
    assert load(save_ast(tmp_path / "eps", layer_norm_eps=1e-3)).identity() != before
    cards = ({"sampling_rate": 8000}, {"mean": -4.0}, {"do_normalize": False})
    found = [load(save_ast(tmp_path / "card", card=card)) for card in cards]
    assert len({json.dumps(one.identity()) for one in found} | {json.dumps(before)}) == 4
    assert found[2].statistics == (0.0, 0.5)  # which change nothing


def test_flawed_directories_are_refused(folder: Path, tmp_path: Path) -> None:
    """No card, one of other bins or without statistics, missing weights, other models."""
    from safetensors.numpy import load_file, save_file

    flawed = save_ast(tmp_path / "flawed")
    card = flawed / "preprocessor_config.json"
    card.write_text(json.dumps(CARD | {"num_mel_bins": 32}))
    with pytest.raises(UsageError, match="other bins"):
        load(flawed)
    card.write_text(json.dumps({name: value for name, value in CARD.items() if name != "std"}))
    with pytest.raises(UsageError, match="standardised"):
        load(flawed)
    assert load(flawed, statistics=(-5.0, 4.0)).statistics == (-5.0, 4.0)
    card.unlink()
    with pytest.raises(UsageError, match="how recordings are prepared"):
        load(flawed)
    card.write_text(json.dumps(CARD))
    tensors = load_file(flawed / "model.safetensors")
    name = next(name for name in tensors if name.endswith("cls_token"))
    save_file({n: t for n, t in tensors.items() if n != name}, flawed / "model.safetensors")
    with pytest.raises(UsageError, match="lacks weights"):
        load(flawed)
    with pytest.raises(UsageError, match="linear layer"):
        load(folder, target_layer="layers.0")
    save_ast(flawed)
    config = json.loads((flawed / "config.json").read_text())
    (flawed / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(UsageError, match="would compute without"):
        load(flawed)


@pytest.mark.parametrize(
    ("card", "match"),
    [
        ({"sampling_rate": 0}, "are prepared"),
        ({"sampling_rate": True}, "are prepared"),
        ({"max_length": -44}, "are prepared"),
        ({"std": 0}, "are standardised"),
        ({"std": float("nan")}, "are standardised"),
        ({"mean": float("inf")}, "are standardised"),
    ],
)
def test_cards_without_sense_are_refused(
    folder: Path, tmp_path: Path, card: dict[str, Any], match: str
) -> None:
    """Before the weights are read: the features would be no numbers."""
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CARD | card))
    with pytest.raises(UsageError, match=match):
        load(tmp_path)
    with pytest.raises(UsageError, match="have no such setting"):
        load(folder, prompt="x")


def test_settings_of_spectrograms_are_for_them_alone(tmp_path: Path) -> None:
    """Another model of sounds refuses them before it is loaded; one of no sounds is refused."""
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
    hf.WhisperConfig(**sizes).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    for setting, value in (("statistics", (-6.0, 5.0)), ("gradient_tokens", "first")):
        with pytest.raises(UsageError, match="no such setting") as error:
            load_backbone(f"audio:{tmp_path}", own_settings={setting: value})
        assert error.value.found == "whisper"
    hf.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no encoder of sounds"):
        load_backbone(f"audio:{tmp_path}")


@pytest.mark.parametrize("package", ["soundfile", "soxr", "transformers"])
def test_what_is_not_installed_is_said_once(
    folder: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any recording is read, with the extra that brings it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match="need transformers and soundfile and soxr") as error:
        load(folder)
    assert error.value.expected == "the extra fungistore[audio]"
    assert f"no {package}" in str(error.value.found)
    assert "soxr" in str(error.value.hint)


def timm_block(tensors: dict[str, Tensor], name: str, tokens: Tensor, heads: int) -> Tensor:
    """A block of timm's vision transformer of 2021, of named weights."""

    def linear(part: str, values: Tensor) -> Tensor:
        return functional.linear(
            values, tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"]
        )

    def norm(part: str, values: Tensor) -> Tensor:
        weight, bias = tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"]
        return functional.layer_norm(values, weight.shape, weight, bias, eps=1e-6)

    batch, count, width = tokens.shape
    joined = linear("attn.qkv", norm("norm1", tokens))
    query, key, value = joined.reshape(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = (query @ key.transpose(-2, -1)) * (width // heads) ** -0.5
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, count, width)
    tokens = tokens + linear("attn.proj", mixed)
    return tokens + linear("mlp.fc2", functional.gelu(linear("mlp.fc1", norm("norm2", tokens))))


def ssast_tensors(patch: tuple[int, int], width: int = 192) -> dict[str, Tensor]:
    """Random weights under the names of SSAST's training, wrapped for several GPUs."""
    patches = (128 // patch[0]) * (1024 // patch[1])
    shapes = {
        "v.cls_token": (1, 1, width),
        "v.dist_token": (1, 1, width),
        "v.pos_embed": (1, patches + 2, width),
        "v.patch_embed.proj.weight": (width, 1, *patch),
        "v.patch_embed.proj.bias": (width,),
        "v.norm.weight": (width,),
        "v.norm.bias": (width,),
        "v.head.weight": (1000, width),
        "v.head_dist.weight": (1000, width),
        "mask_embed": (1, 1, width),
        "cpredlayer.0.weight": (width, width),
        "gpredlayer.2.bias": (256,),
    }
    for block in range(12):
        parts = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
        for part, (out, into) in parts.items():
            shapes[f"v.blocks.{block}.{part}.weight"] = (out * width, into * width)
            shapes[f"v.blocks.{block}.{part}.bias"] = (out * width,)
        for norm in ("norm1", "norm2"):
            shapes |= {f"v.blocks.{block}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    torch.manual_seed(0)
    made = {f"module.{name}": 0.05 * torch.randn(shape) for name, shape in shapes.items()}
    trained = {"module.p_input_fdim": torch.tensor(128), "module.p_input_tdim": torch.tensor(1024)}
    return made | trained


def ssast_embedding(wrapped: dict[str, Tensor], banks: Tensor, stride: tuple[int, int]) -> Tensor:
    """The mean of both prefix tokens, as SSAST's own evaluation makes it of a checkpoint."""
    tensors = {name.removeprefix("module.v."): value for name, value in wrapped.items()}
    weight = tensors["patch_embed.proj.weight"]
    picture = banks.transpose(1, 2)[:, None]
    patches = functional.conv2d(picture, weight, tensors["patch_embed.proj.bias"], stride)
    trained = (128 // weight.shape[2], 1024 // weight.shape[3])
    positions = tensors["pos_embed"][0, 2:].unflatten(0, trained).numpy()
    frequencies, times = patches.shape[2:]
    places = torch.from_numpy(resampled(positions, times, frequencies)).float().flatten(0, 1)
    prefix = torch.cat([tensors["cls_token"], tensors["dist_token"]], 1)
    prefix = (prefix + tensors["pos_embed"][:, :2]).expand(len(banks), -1, -1)
    tokens = torch.cat([prefix, patches.flatten(2).transpose(1, 2) + places], 1)
    for block in range(12):
        tokens = timm_block(tensors, f"blocks.{block}", tokens, 3)
    tokens = functional.layer_norm(
        tokens, (192,), tensors["norm.weight"], tensors["norm.bias"], eps=1e-6
    )
    return tokens[:, :2].mean(1)


@pytest.mark.parametrize(
    ("name", "patch", "stride", "grid"),
    [
        ("ssast-tiny-patch-400", (16, 16), (10, 10), (12, 12)),
        ("ssast-tiny-frame-400", (128, 2), (128, 1), (1, 127)),
    ],
)
def test_a_checkpoint_of_ssast_is_its_architecture(
    tmp_path: Path,
    name: str,
    patch: tuple[int, int],
    stride: tuple[int, int],
    grid: tuple[int, int],
) -> None:
    """With 128 frames, as of Speech Commands: overlapping patches, resampled positions."""
    tensors, file = ssast_tensors(patch), tmp_path / "SSAST.pth"
    torch.save(tensors, file)
    encoder = load(name, file, max_length=128, statistics=(-6.845978, 5.5654526))
    assert encoder.token_shape == grid
    assert encoder.said == ("left out: cpredlayer, gpredlayer, head, head_dist, mask_embed",)
    view = view_of(encoder, sound(1.1))[:, 0]
    found = encoder.run((view,)).embeddings
    expected = ssast_embedding(tensors, view, stride)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_other_files_than_ssasts_are_refused(tmp_path: Path) -> None:
    """No file, one that lacks a block's part, one of another width, and one without its sizes."""
    name, file = "ssast-tiny-patch-400", tmp_path / "SSAST.pth"
    with pytest.raises(UsageError, match="its authors publish"):
        load(name)
    tensors = ssast_tensors((16, 16))
    lacking = {key: value for key, value in tensors.items() if "blocks.11.attn.qkv.w" not in key}
    torch.save(lacking, file)
    with pytest.raises(UsageError, match="file lacks weights"):
        load(name, file)
    with pytest.raises(UsageError, match="another SSAST"):
        load("ssast-base-patch-400", file)
    torch.save({key: value for key, value in tensors.items() if "p_input" not in key}, file)
    with pytest.raises(UsageError, match="no checkpoint of SSAST") as error:
        load(name, file)
    assert "p_input_tdim" in str(error.value.found)
    with pytest.raises(UsageError, match="weights are in its directory"):
        load("MIT/ast", file)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"v.blocks.12.norm1.weight": torch.ones(192)}, "no place for"),
        ({"v.blocks.3.ls1.gamma": torch.ones(192)}, "no place for"),
        ({"v.fc_norm.weight": torch.ones(192)}, "no place for"),
        ({"v.blocks.3.attn.qkv.weight": torch.ones(2, 192)}, "3 missing"),
        ({"v.norm.weight": torch.ones(193)}, "1 misshapen"),
        ({"v.patch_embed.proj.bias": torch.ones(193)}, "another SSAST"),
        ({"p_input_tdim": torch.tensor([1024, 1])}, "another SSAST"),
        ({"p_input_fdim": torch.tensor(-128)}, "another SSAST"),
        (ssast_tensors((128, 2)), "another SSAST"),
    ],
)
def test_weights_that_are_not_an_ssasts_are_refused(
    tmp_path: Path, changed: dict[str, Tensor], match: str
) -> None:
    """More of the encoder than is used, other shapes, other patches than the name says."""
    wrapped = {f"module.{name.removeprefix('module.')}": one for name, one in changed.items()}
    torch.save(ssast_tensors((16, 16)) | wrapped, tmp_path / "SSAST.pth")
    with pytest.raises(UsageError) as error:
        load("ssast-tiny-patch-400", tmp_path / "SSAST.pth")
    assert match in f"{error.value.what} {error.value.found}"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight sounds of two classes, two of them longer than the model takes, and a broken file."""
    root = tmp_path_factory.mktemp("sounds")
    for number in range(8):
        file = root / ("low", "high")[number % 2] / f"{number}.wav"
        file.parent.mkdir(exist_ok=True)
        made = sound(0.2 + 0.05 * number, number % 2)
        soundfile.write(file, made.samples, RATE)
    (root / "low" / "broken.wav").write_bytes(b"RIFF no sound")
    return root


def extracted(sounds: Path, folder: Path, store: Path, **more: Any) -> ExtractResult:
    options = ExtractOptions(
        model=f"audio:{folder}",
        features=("embeddings", "kl", "simclr", "patches"),
        dtype="float32",
        device="cpu",
        unit_rows=4,
        objectives={"simclr": {"views": 4, "negatives": 2, "head_dim": 16}, "kl": {"head_dim": 16}},
        **more,
    )
    return extract(sounds, store, options, context=QUIET)


def arrays_of(store: Path) -> dict[str, np.ndarray]:
    arrays = Store.open(store).arrays("audio-ast")
    return {name: np.asarray(array.read(0, 9)) for name, array in arrays.items()}


@pytest.mark.parametrize("objective", [DeepCluster(), IBOT(), MLM()], ids=lambda one: one.name)
def test_objectives_of_images_and_texts_have_no_views_of_sounds(
    folder: Path, objective: Objective
) -> None:
    """The error names the objective, and what works with every encoder."""
    with pytest.raises(UsageError, match=f"{objective.name} has no views of recordings") as caught:
        recipe_of(objective, load(folder), "model")
    assert "kl needs no views" in str(caught.value.hint)


def test_a_folder_of_sounds_end_to_end(sounds: Path, folder: Path, tmp_path: Path) -> None:
    """Features, a listed failure, lengths; verified, evaluated; the same bits by more workers."""
    store, other, third = (tmp_path / f"{name}.fungi" for name in ("one", "two", "three"))
    done = extracted(sounds, folder, store, batch_size=4, workers=1)
    assert (done.samples, done.failed) == (9, 1)
    assert Store.open(store).modality.name == "audio"
    found = arrays_of(store)
    assert {"embeddings", "gradients/kl", "gradients/simclr", "patches"} <= found.keys()
    assert found["patches"].shape == (9, *GRID, WIDTH)
    is_broken = np.isnan(found["embeddings"]).any(1)
    assert is_broken.sum() == 1
    assert np.abs(found["gradients/simclr"][~is_broken]).max() > 0
    assert sorted(found["lengths/embeddings"][~is_broken]) == [18, 23, 28, 33, 38, 43, 48, 53]
    assert not verify_store(store, context=QUIET).findings
    told = CliRunner().invoke(app, ["status", str(store)])
    assert f"ASTModel with class pooling, at most {FRAMES} frames" in told.output
    scores = evaluate_knn(store, KnnOptions(k=1, holdout=0.25)).scores
    assert ("embeddings", "kl", "simclr") in {score.features for score in scores}
    extracted(sounds, folder, other, batch_size=4, workers=3, decode_in="threads")
    extracted(sounds, folder, third, batch_size=3)  # whose sums have another order
    again, near = arrays_of(other), arrays_of(third)
    assert found.keys() == again.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)
        np.testing.assert_allclose(values, near[name], rtol=2e-3, atol=2e-3, err_msg=name)
