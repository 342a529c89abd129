"""Text encoders: embeddings are the model's own, gradients are autograd's, padding changes nothing.

The oracle is transformers' own forward on one text without padding, and autograd through it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="the extra fungistore[text]")

from tokenizers import Tokenizer

from fungistore.backbones.families import load_backbone
from fungistore.backbones.texts.encoder import TextEncoder
from fungistore.errors import UsageError
from fungistore.gradients.class_token import ClassTokenPath
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path
from fungistore.modalities.text.recipes import TextViews, padded_length
from fungistore.modalities.views import Inputs
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import ViewOutputs
from fungistore.objectives.text_simclr import TextSimCLR
from fungistore.randomness import Stream
from text_world import KINDS, LONGEST, OF_NEIGHBOURS, WIDTH, save_card, save_encoder

SHORT, LONG = "the cat sat", "the old red dog ran and then it was on the new roof " * 2
FAST = ("bert", "roberta", "t5", "mt5", "camembert", "electra")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory of each kind."""
    root = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(root / kind, kind) for kind in KINDS}


def load(folder: Path, **settings: Any) -> TextEncoder:
    target = settings.pop("target_layer", None)
    encoder = load_backbone(f"text:{folder}", target_layer=target, own_settings=settings)
    assert isinstance(encoder, TextEncoder)
    return encoder


def inputs_of(encoder: TextEncoder, text: str, length: int | None = None) -> Inputs:
    """One view [1, 1, t], padded as a sample is, or to a length."""
    drawn = TextViews(encoder.pieces).draw(text, Stream(0))
    arrays = tuple(torch.from_numpy(array)[None] for array in drawn)
    ids, real = TextViews(encoder.pieces).render(arrays, 0, slice(0, 1))
    if length is not None:
        missing = (0, length - ids.shape[-1])
        ids, real = nn.functional.pad(ids, missing), nn.functional.pad(real, missing)
    return ids, real


def own_tokens(encoder: TextEncoder, text: str) -> Tensor:
    """What transformers makes of one text without padding, [t, d]; differentiable."""
    ids, _ = encoder.pieces(text)
    tokens: Tensor = encoder.module(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return tokens


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_models_and_autograds(
    folders: dict[str, Path], kind: str, pooling: str
) -> None:
    """Embedding and KL gradient of a padded text, by the fast path where there is one."""
    encoder = load(folders[kind], pooling=pooling)
    target = encoder.target
    assert target is not None
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, 8)
    expected = {}
    for text in (SHORT, LONG):
        parameters = [one for one in (target.weight, target.bias) if one is not None]
        for parameter in parameters:
            parameter.requires_grad_()
        tokens = own_tokens(encoder, text)
        embedding = tokens[0] if pooling == "class" else tokens.mean(0)
        outputs = ViewOutputs(embedding[None, None])
        loss = KL(head_dim=8, temperature=1.0).losses(outputs, {"projection": head})
        found = torch.autograd.grad(loss.sum(), parameters)
        gradient = torch.cat([one.reshape(len(one), -1) for one in found], dim=1)
        expected[text] = (embedding.detach(), gradient)
        encoder.module.requires_grad_(False)
    path = gradient_path(encoder)
    is_fast = pooling == "class" and kind in FAST
    assert isinstance(path, ClassTokenPath if is_fast else LayerPath)
    for text, (embedding, gradient) in expected.items():
        for length in (None, LONGEST):
            tape = path.record([inputs_of(encoder, text, length)], patches=True)
            torch.testing.assert_close(tape.embeddings[0, 0], embedding, atol=2e-5, rtol=1e-5)
            loss = KL(head_dim=8, temperature=1.0).losses(
                ViewOutputs(tape.embeddings), {"projection": head}
            )
            found = tape.gradients(loss)[0]
            assert (found - gradient).norm() <= 1e-5 * gradient.norm()
            assert tape.patches is not None
            assert tape.patches.mask is not None
            real = tape.patches.tokens[0][tape.patches.mask[0]]
            torch.testing.assert_close(real, own_tokens_plain(encoder, text), atol=5e-5, rtol=1e-4)


def own_tokens_plain(encoder: TextEncoder, text: str) -> Tensor:
    with torch.no_grad():
        return own_tokens(encoder, text)


def test_paths_agree_on_simclr(folders: dict[str, Path]) -> None:
    """Twelve copies of a text through the fast path and through the general one, to 1e-5."""
    fast, general = load(folders["bert"]), load(folders["bert"])
    objective = TextSimCLR(views=5, deletion=0.3, head_dim=8, negatives=0)
    recipe = TextViews(fast.pieces, objective.request)
    drawn = tuple(torch.from_numpy(a)[None] for a in recipe.draw(LONG, Stream(1, "views")))
    inputs = recipe.render(drawn, 0, slice(0, 5))
    torch.manual_seed(0)
    head = {"projection": nn.Linear(WIDTH, 8).requires_grad_(False)}
    one, other = gradient_path(fast).record([inputs]), LayerPath(general).record([inputs])
    first, second = (
        tape.gradients(objective.losses(ViewOutputs(tape.embeddings), head, None))
        for tape in (one, other)
    )
    assert (first - second).norm() <= 1e-5 * second.norm()
    assert second.abs().max() > 0


def test_a_trunk_in_half_precision_is_near(folders: dict[str, Path]) -> None:
    """With bfloat16 up to the last block, embeddings of both paths keep their direction."""
    for kind, pooling in (("bert", "class"), ("bert", "mean"), ("t5", "class"), ("t5", "mean")):
        exact, half = (load(folders[kind], pooling=pooling) for _ in range(2))
        one = gradient_path(exact).record([inputs_of(exact, LONG)])
        other = gradient_path(half, torch.bfloat16).record([inputs_of(half, LONG)])
        cosine = nn.functional.cosine_similarity(
            one.embeddings.detach(), other.embeddings.detach(), dim=-1
        )
        assert 0.99 < cosine.item() < 1, (kind, pooling)
        assert half.module.get_input_embeddings().weight.dtype == torch.bfloat16


def test_int8_is_refused(folders: dict[str, Path]) -> None:
    """Nothing of a text encoder is quantised."""
    with pytest.raises(UsageError, match="eight bits"):
        gradient_path(load(folders["bert"]), torch.int8)


def test_padding_depends_on_the_text_alone() -> None:
    """Two lengths from one power of two to the next, the greatest length at most."""
    found = {length: padded_length(length, 512) for length in range(1, 513)}
    assert sorted(set(found.values())) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert all(length <= padded for length, padded in found.items())
    assert padded_length(40, 44) == 44
    assert padded_length(9, 10) == 10


def test_the_card_decides_and_the_user_overrules(folders: dict[str, Path], tmp_path: Path) -> None:
    """Mean where the card says so; the class token without a card; a prompt before each text."""
    assert load(folders["bert"]).pooling == "class"
    folder = save_encoder(tmp_path / "carded", "bert")
    save_card(folder, "mean_tokens")
    prompts = {"prompts": {"query": "one two "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    encoder = load(folder)
    assert encoder.pooling == "mean"
    assert encoder.pieces("cat") == encoder.pieces.__class__(
        encoder.pieces.tokenizer, encoder.pieces.max_length, 0
    )("one two cat")
    assert load(folder, pooling="class", prompt="").pooling == "class"
    save_card(folder, "max_tokens")
    with pytest.raises(UsageError, match="pools tokens in a way") as error:
        load(folder)
    assert "--pooling" in str(error.value.hint)
    assert load(folder, pooling="mean").pooling == "mean"


def test_longer_texts_are_cut_and_told(folders: dict[str, Path]) -> None:
    """What the tokenizer would have made is counted; special tokens stay; one has a limit."""
    encoder = load(folders["bert"], max_length=8)
    ids, whole = encoder.pieces("the cat sat on the mat and then it was")
    assert (len(ids), whole) == (8, 12)
    assert (ids[0], ids[-1]) == (2, 3)
    assert encoder.pieces("the cat")[1] == 4
    assert encoder.pieces("the" + " " * 10_000 + "cat") == encoder.pieces("the cat")
    assert encoder.pieces("x" * 10_000 + " cat" * 2) == encoder.pieces("x cat cat")
    assert encoder.pieces("cat " * 10_000)[1] > 8
    with pytest.raises(UsageError, match="no positions"):
        load(folders["bert"], max_length=LONGEST + 1)
    assert load(folders["roberta"]).pieces.max_length == LONGEST
    assert load(folders["t5"], max_length=1000).pieces.max_length == 1000


@pytest.mark.parametrize(
    ("setting", "other"),
    [("pooling", "mean"), ("max_length", 20), ("prompt", "one "), ("target_layer", "0")],
)
def test_what_decides_is_in_the_identity(
    folders: dict[str, Path], tmp_path: Path, setting: str, other: Any
) -> None:
    """Pooling, length, prompt, weights, tokenizer and architecture; the place is not."""
    before = load(folders["bert"])
    if setting == "target_layer":  # of the gradients alone, which have it beside the identity
        layer = "encoder.layer.0.attention.output.dense"
        assert load(folders["bert"], target_layer=layer).identity() == before.identity()
        return
    assert load(folders["bert"], **{setting: other}).identity() != before.identity()
    assert load(save_encoder(tmp_path / "same", "bert")).identity() == before.identity()
    assert load(save_encoder(tmp_path / "w", "bert", seed=1)).identity() != before.identity()
    more = save_encoder(tmp_path / "c", "bert", layer_norm_eps=1e-3)
    assert load(more).identity() != before.identity()
    pieces = save_encoder(tmp_path / "p", "bert")
    (pieces / "spm.model").write_bytes(b"of sentencepiece, as DeBERTa has it")
    assert load(pieces).identity() != before.identity()
    cased = save_encoder(tmp_path / "t", "bert")
    text = (cased / "tokenizer.json").read_text(encoding="utf-8")
    (cased / "tokenizer.json").write_text(text.replace('"cat"', '"cats"'), encoding="utf-8")
    assert load(cased).identity() != before.identity()


def test_flawed_directories_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Pickles, missing weights, models of other kinds, and what is no directory."""
    from safetensors.numpy import load_file, save_file
    from transformers import GPT2Config, GPT2Model

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UsageError, match="safetensors"):
        load(pickled)
    lacking = save_encoder(tmp_path / "lacking", "bert")
    file = lacking / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UsageError, match="lacks weights"):
        load(lacking)
    generative = tmp_path / "gpt"
    GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)).save_pretrained(generative)
    with pytest.raises(UsageError, match="no text encoder") as error:
        load(generative)
    assert error.value.found == "gpt2"
    coded = save_encoder(tmp_path / "coded", "bert")
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "unheard-of", "auto_map": {"AutoModel": "code.Model"}}
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UsageError, match="cannot be loaded"):
        load(coded)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UsageError, match="no such directory"):
        load_backbone("text:/nowhere/at/all")
    with pytest.raises(UsageError, match="have no such setting"):
        load_backbone("vit_tiny_patch16_224", own_settings={"pooling": "mean"})


@pytest.mark.parametrize("kind", ["bert", "t5", "modernbert"])
def test_how_attention_is_computed_is_not_the_directorys_to_say(tmp_path: Path, kind: str) -> None:
    """Masks suit torch's kernels: a config that names others, or other outputs, changes nothing."""
    folder = save_encoder(tmp_path / kind, kind)
    before = load(folder)
    configure(folder, attn_implementation="eager", output_attentions=True, return_dict=False)
    encoder = load(folder)
    inputs = inputs_of(encoder, SHORT)
    one, other = (gradient_path(e).record([inputs]).embeddings for e in (before, encoder))
    assert torch.equal(one, other)
    torch.testing.assert_close(one[0, 0], own_tokens_plain(before, SHORT)[0], atol=2e-5, rtol=1e-5)


def configure(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")


def test_a_causal_model_is_refused(tmp_path: Path) -> None:
    """One whose config makes it a decoder: a token would see those behind it."""
    configure(folder := save_encoder(tmp_path / "decoder", "bert"), is_decoder=True)
    with pytest.raises(UsageError, match="no text encoder"):
        load(folder)


def test_blocks_are_not_computed_without_their_weights(tmp_path: Path) -> None:
    """A weight of a block that the model has no place for is an error; one of a head is said."""
    from safetensors.numpy import load_file, save_file

    folder = save_encoder(tmp_path / "odd", "bert")
    file = folder / "model.safetensors"
    tensors = load_file(file) | {"cls.predictions.bias": np.zeros(9, np.float32)}
    save_file(tensors, file, {"format": "pt"})
    assert "left out: cls" in load(folder).remarks
    name = "encoder.layer.0.attention.self.distance_embedding.weight"  # of relative positions
    for prefix in ("", "bert."):
        renamed = {prefix + key: value for key, value in tensors.items()}
        odd = {f"{prefix}{name}": np.zeros((95, 8), np.float32)}
        save_file(renamed | odd, file, {"format": "pt"})
        with pytest.raises(UsageError, match="compute without") as error:
            load(folder)
        assert name in str(error.value.found)


@pytest.mark.parametrize("kind", OF_NEIGHBOURS)
def test_a_model_that_looks_at_padding_is_refused(tmp_path: Path, kind: str) -> None:
    """Convolutions over tokens, and neighbours' embeddings, reach into padding."""
    with pytest.raises(UsageError, match="how far a text is padded"):
        load(save_encoder(tmp_path / kind, kind))


def test_a_model_that_takes_no_texts_is_refused(tmp_path: Path) -> None:
    """What it raises at a first text is told before anything is computed."""
    folder = save_encoder(tmp_path / "few", "distilbert")
    configure(folder, n_heads=5)
    with pytest.raises(UsageError) as error:
        load(folder)
    assert str(folder) in str(error.value)


def test_a_text_needs_room(folders: dict[str, Path], tmp_path: Path) -> None:
    """Beside special tokens and the prompt; else all texts would be the same."""
    for settings in ({"max_length": 2}, {"max_length": 4, "prompt": "one two "}):
        with pytest.raises(UsageError, match="no room") as error:
            load(folders["bert"], **settings)
        assert "--max-length" in str(error.value.where)
    folder = save_encoder(tmp_path / "padding", "bert")
    cutter = Tokenizer.from_file(str(folder / "tokenizer.json"))
    cutter.enable_padding(length=20)  # as published ones are saved
    cutter.enable_truncation(2)
    cutter.save(str(folder / "tokenizer.json"))
    for place in (folders["bert"], folder):
        assert len(load(place, max_length=3).pieces("the cat")[0]) == 3


def test_a_tokenizer_is_the_models(tmp_path: Path) -> None:
    """None at all, and one with more words than the model has, are refused before any text."""
    folder = save_encoder(tmp_path / "bare", "bert")
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(UsageError, match="no tokenizer"):
        load(folder)
    more = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    more["model"]["vocab"]["beyond"] = 99
    (folder / "tokenizer.json").write_text(json.dumps(more), encoding="utf-8")
    with pytest.raises(UsageError, match="no embeddings of"):
        load(folder)


def test_views_are_drawn_from_the_samples_own_stream(folders: dict[str, Path]) -> None:
    """Another id draws other copies, the same id the same ones."""
    encoder = load(folders["bert"])
    recipe = TextViews(encoder.pieces, TextSimCLR().request)
    one, again, other = (recipe.draw(LONG, Stream(42, "views", "simclr", i)) for i in "aab")
    assert all(np.array_equal(x, y) for x, y in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert one[0].shape[0] == 12
