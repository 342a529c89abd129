"""Masked language modelling: masks by the rule, losses and gradients as transformers' own.

The oracle is transformers' model with its head on one text without padding, and autograd.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("transformers", reason="the extra fungistore[text]")

import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from fungistore.backbones.families import load_backbone
from fungistore.backbones.texts.encoder import TextEncoder
from fungistore.backbones.texts.pieces import TokenizerPieces
from fungistore.backbones.word_head import WordHead, carried_head
from fungistore.errors import UsageError
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path, token_path
from fungistore.gradients.tape import Tape
from fungistore.modalities.requests import MaskedWords
from fungistore.modalities.text.recipes import MaskedTexts, text_recipe
from fungistore.objectives.mlm import MLM
from fungistore.objectives.objective import Undecided, ViewOutputs
from fungistore.randomness import Stream
from text_world import KINDS, LONGEST, SPECIAL, WIDTH, WORDS, save_encoder

CARRYING = [kind for kind in KINDS if "t5" not in kind]
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
TEXTS = ("cat", "the old red dog ran and then it was on the new roof", "the cat sat on a mat " * 7)


def load(folder: Path, **settings: Any) -> TextEncoder:
    encoder = load_backbone(f"text:{folder}", own_settings=settings)
    assert isinstance(encoder, TextEncoder)
    return encoder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> TokenizerPieces:
    return load(save_encoder(tmp_path_factory.mktemp("pieces") / "bert", "bert")).pieces


def draw(
    pieces: TokenizerPieces, text: str, request: MaskedWords, item: str = "a"
) -> tuple[np.ndarray, ...]:
    return MaskedTexts(pieces, request).draw(text, Stream(7, "views", "mlm", item))


@pytest.mark.parametrize("words", [1, 2, 3, 10, 44, 46, 70])
def test_a_share_of_the_pieces_is_masked_at_least_one(pieces: TokenizerPieces, words: int) -> None:
    """Of each copy as many, at places of its own; what stood there is kept, the rest is the text's.

    Of a text that is too long, what is left of it counts.
    """
    text = " ".join(WORDS[number % len(WORDS)] for number in range(words))
    ids, lengths, places, hidden = draw(pieces, text, MaskedWords(6))
    whole, _ = pieces(text)
    kept = min(words, LONGEST - 2)
    count = max(1, round(0.15 * kept))
    assert (lengths == kept + 2).all()
    assert places.shape == hidden.shape == (6, round(0.15 * ids.shape[1]))
    assert ((hidden >= 0).sum(axis=1) == count).all()
    for view in range(6):
        expected, real = np.array(whole), places[view, :count]
        assert (hidden[view, :count] == expected[real]).all()
        expected[real] = MASK
        assert (ids[view, : len(whole)] == expected).all()
        assert (ids[view, len(whole) :] == PAD).all()
        assert (places[view, count:] == 0).all()
        assert (np.diff(real) > 0).all()
    if words > 3:
        assert len({tuple(row) for row in places.tolist()}) > 1


def test_masks_depend_on_the_text_and_its_id_alone(pieces: TokenizerPieces) -> None:
    """The same stream gives the same copies, another sample's other ones."""
    one, same, other = (draw(pieces, TEXTS[2], MaskedWords(4), item) for item in "aab")
    assert all(np.array_equal(*both) for both in zip(one, same, strict=True))
    assert not np.array_equal(one[2], other[2])


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("cat [SEP] dog [MASK] [CLS] [PAD] bird", [1, 3, 7]),
        ("qqq zzz", [1, 2]),  # words that the tokenizer does not know
        ("[SEP] [CLS]", []),
    ],
)
def test_special_tokens_are_never_masked(
    pieces: TokenizerPieces, text: str, own: list[int]
) -> None:
    """Those of the tokenizer, and those that a text spells; unknown words are words."""
    ids, _, places, hidden = draw(pieces, text, MaskedWords(40, rate=0.4))
    assert set(places[hidden >= 0].tolist()) == set(own)
    assert (ids == MASK).any() == bool(own)


def test_a_prompt_is_never_masked(pieces: TokenizerPieces) -> None:
    """What goes before each text says nothing of any of them, up to its last piece."""
    for prompt in ("one two ", "one:"):
        asking = TokenizerPieces(
            pieces.tokenizer, LONGEST, PAD, prompt, pieces.masks, pieces.special
        )
        assert asking.of_text("cat dog")[2] == [False, False, False, True, True, False]
    assert pieces.of_text("one cat")[2] == [False, True, True, False]


def test_berts_rule_masks_most_replaces_some_and_leaves_some(pieces: TokenizerPieces) -> None:
    """80, 10 and 10 of 100, any ordinary piece in another's place; all of them are asked for."""
    request = MaskedWords(800, rule="bert")
    ids, _, places, hidden = draw(pieces, TEXTS[2], request)
    there = hidden >= 0
    found = np.take_along_axis(ids, places.astype(np.int64), 1)[there]
    was = hidden[there]
    assert len(found) > 4000
    assert np.mean(found == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(found == was) == pytest.approx(0.1 + 0.1 / len(WORDS), abs=0.015)
    others = found[(found != MASK) & (found != was)]
    assert set(others.tolist()) == set(range(len(SPECIAL), len(SPECIAL) + len(WORDS))) | {UNK}


def test_t5s_sentinels_stand_for_masked_pieces(tmp_path: Path) -> None:
    """Each for one, in their order, and from the first one on again where there are too few."""
    folder = save_encoder(tmp_path / "t5", "t5", vocab_size=40)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([f"<extra_id_{number}>" for number in range(3)])
    tokenizer.save(str(path))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
    )
    pieces = load(folder).pieces
    first = len(SPECIAL) + len(WORDS)
    assert pieces.masks == (first, first + 1, first + 2)
    ids, _, places, hidden = draw(pieces, TEXTS[2], MaskedWords(5))
    count = int((hidden[0] >= 0).sum())
    assert count == 6
    for row, at in zip(ids, places[:, :count], strict=True):
        assert row[at].tolist() == [first, first + 1, first + 2] * 2
    assert not {first, first + 1, first + 2} & set(pieces.ordinary.tolist())


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    """As that of a model that only generates; the error says where one could be named."""
    folder = save_encoder(tmp_path / "bert", "bert")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
    )
    with pytest.raises(UsageError, match="no token that stands for a masked word") as caught:
        text_recipe(MaskedWords(4), load(folder))
    assert "mask_token" in str(caught.value.hint)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", CARRYING)
def test_loss_and_gradient_are_the_models_own(heads: dict[str, Path], kind: str, text: str) -> None:
    """With the head that the weights carry: transformers' loss of each copy, and its autograd's."""
    encoder = load(heads[kind])
    model = hf.AutoModelForMaskedLM.from_pretrained(heads[kind]).eval()
    target = model.base_model.get_submodule(encoder.target_layer)
    objective, said = MLM(views=3).decided(encoder)
    assert (objective.head, said[:16]) == ("weights", "mlm.head=weights")
    drawn = MaskedTexts(encoder.pieces, objective.needs.views).draw(text, Stream(3))
    ids, (length, *_), places, hidden = drawn
    expected = []
    for row, at, was in zip(ids, places, hidden, strict=True):
        labels = np.full(length, -100)
        labels[at[was >= 0]] = was[was >= 0]
        given = torch.from_numpy(row[:length].astype(np.int64))[None]
        expected.append(model(input_ids=given, labels=torch.from_numpy(labels)[None]).loss)
    loss = torch.stack(expected).mean()
    parameters = [one for one in (target.weight, target.bias) if one is not None]
    found = torch.autograd.grad(loss, parameters)
    gradient = torch.cat([one.reshape(len(one), -1) for one in found], dim=1)
    tape, losses = recorded(encoder, objective, [text])
    torch.testing.assert_close(losses[0], loss, rtol=1e-5, atol=1e-6)
    ours = tape.gradients(losses)[0]
    assert (ours - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory of each kind that may carry a head of words, with one."""
    root = tmp_path_factory.mktemp("heads")
    return {kind: save_encoder(root / kind, kind, words=True) for kind in CARRYING}


def recorded(encoder: TextEncoder, objective: MLM, texts: list[str]) -> tuple[Tape, Tensor]:
    """What the path of token losses records of some equally long texts, and their losses."""
    recipe = MaskedTexts(encoder.pieces, objective.needs.views)
    drawn = [recipe.draw(text, Stream(3)) for text in texts]
    arrays = tuple(torch.from_numpy(np.stack(some)) for some in zip(*drawn, strict=True))
    words = carried_head(encoder, "weights")
    assert words is not None
    path = token_path(encoder, gradient_path(encoder))
    inputs = recipe.render(arrays, 0, slice(0, objective.views))
    tape = path.record([inputs], tokens=True)
    outputs = ViewOutputs(tape.embeddings, tape.tokens, arrays)
    return tape, objective.losses(outputs, {"words": words})


@pytest.mark.parametrize("width", [7, 25])
def test_a_random_head_asks_for_classes_of_pieces(pieces: TokenizerPieces, width: int) -> None:
    """The loss written out: numbers modulo the head's width, the mean of masked pieces alone.

    Also of texts of other lengths, in one batch; one without a word that could be masked has none.
    """
    random = np.random.default_rng(0)
    objective = MLM(views=2, masked=0.4, head="random", head_dim=width)
    assert objective.needs.token_heads == {"words": width}
    texts = ["the cat sat", "[SEP]", "a dog and a bird ran"]
    recipe = MaskedTexts(pieces, objective.needs.views)
    drawn = [recipe.draw(text, Stream(number)) for number, text in enumerate(texts)]
    tokens = random.standard_normal((3, 2, 16, 5))
    layer = nn.Linear(5, width).double()
    weight, bias = (one.detach().numpy() for one in layer.parameters())
    expected = []
    for text, (_, _, places, hidden) in zip(tokens, drawn, strict=True):
        found = []
        for copy, at, was in zip(text, places, hidden, strict=True):
            for place, number in zip(at[was >= 0], was[was >= 0], strict=True):
                logits = weight @ copy[place] + bias
                found.append(np.log(np.exp(logits).sum()) - logits[number % width])
        expected.append(np.mean(found) if found else 0.0)
    assert expected[1] == 0
    arrays = tuple(torch.from_numpy(np.stack(some)) for some in zip(*drawn, strict=True))
    grid = torch.from_numpy(tokens).requires_grad_()
    views = ViewOutputs(torch.zeros(3, 2, 5), (grid_of(grid),), arrays)
    losses = objective.losses(views, {"words": layer})
    assert losses.tolist() == pytest.approx(expected)
    losses.sum().backward()
    assert grid.grad is not None
    assert not grid.grad[1].any()
    assert grid.grad[0].any()


def grid_of(tokens: Tensor) -> Any:
    from fungistore.backbones.encoder import TokenGrid

    return TokenGrid(tokens)


def test_many_logits_are_made_some_at_a_time() -> None:
    """Loss and gradient of more logits than are held at once equal autograd's of all of them."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 1 << 15)
    tokens = torch.randn(2, 1, 100, 4)
    places = torch.arange(100).expand(2, 1, 100)
    pieces = torch.randint(1 << 15, (2, 1, 100))
    pieces[0, 0, 7] = 0  # a piece as any other
    results = []
    for is_ours in (True, False):
        given = tokens.clone().requires_grad_()
        views = ViewOutputs(torch.zeros(2, 1, 4), (grid_of(given),), (places, pieces))
        if is_ours:
            loss = MLM(views=1, head="random").losses(views, {"words": layer})
        else:
            logits = layer(given).flatten(0, 2)
            loss = functional.cross_entropy(logits, pieces.flatten(), reduction="none")
            loss = loss.view(2, 100).mean(dim=1)
        weighted = loss * torch.tensor([1.0, 3.0])
        results.append((loss.detach(), torch.autograd.grad(weighted.sum(), given)[0]))
    (loss, gradient), (expected, theirs) = results
    torch.testing.assert_close(loss, expected)
    assert (gradient - theirs).norm() <= 1e-5 * theirs.norm()


def test_samples_do_not_depend_on_each_other(heads: dict[str, Path]) -> None:
    """The losses and gradients of two texts equal those of each of them alone."""
    encoder, objective = load(heads["bert"]), MLM(views=2, head="weights")
    texts = ["the cat sat", "a dog ran on and on"]
    tape, losses = recorded(encoder, objective, texts)
    both = tape.gradients(losses)
    for text, loss, gradient in zip(texts, losses, both, strict=True):
        alone, own = recorded(encoder, objective, [text])
        torch.testing.assert_close(own[0], loss)
        assert (alone.gradients(own)[0] - gradient).norm() <= 1e-5 * gradient.norm()


def test_heads_are_read_by_their_names(heads: dict[str, Path], tmp_path: Path) -> None:
    """From one file or shards, with a decoder of its own or the word embeddings, with old names."""
    own = carried_head(load(heads["bert"]), "weights")
    assert own is not None
    assert own.weight.shape == (25, WIDTH)
    tensors = load_file(heads["bert"] / "model.safetensors")
    assert "cls.predictions.decoder.weight" not in tensors
    renamed = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
        if key.startswith("cls")
        else key: value
        for key, value in tensors.items()
    }
    folder = copied(heads["bert"], tmp_path / "old", renamed)
    assert digest_of(folder) == own.digest
    untied = tensors | {"cls.predictions.decoder.weight": torch.randn(25, WIDTH)}
    other = carried_head(load(copied(heads["bert"], tmp_path / "untied", untied)), "weights")
    assert other is not None
    assert torch.equal(other.weight, untied["cls.predictions.decoder.weight"])
    assert other.digest != own.digest
    model = hf.AutoModelForMaskedLM.from_pretrained(heads["bert"])
    shards = copied(heads["bert"], tmp_path / "shards", None)
    model.save_pretrained(shards, max_shard_size="10KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 1
    assert digest_of(shards) == own.digest


def copied(folder: Path, new: Path, tensors: dict[str, Tensor] | None) -> Path:
    """Write another directory of the same model, with other weights."""
    new.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (new / name).write_bytes((folder / name).read_bytes())
    if tensors is not None:
        save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
    return new


def digest_of(folder: Path) -> str:
    head = carried_head(load(folder), "weights")
    assert isinstance(head, WordHead)
    return head.digest


@pytest.mark.parametrize(
    ("key", "shape", "config"),
    [
        ("cls.predictions.transform.dense.weight", None, {}),
        ("cls.predictions.transform.LayerNorm.bias", None, {}),
        ("cls.predictions.bias", (24,), {}),
        ("cls.predictions.transform.dense.weight", (WIDTH, WIDTH + 1), {}),
        ("cls.predictions.decoder.weight", None, {"tie_word_embeddings": False}),
    ],
)
def test_a_head_in_part_is_refused(
    heads: dict[str, Path],
    tmp_path: Path,
    key: str,
    shape: tuple[int, ...] | None,
    config: dict[str, Any],
) -> None:
    """The error names the weight; embeddings of the same directory need no head."""
    tensors = load_file(heads["bert"] / "model.safetensors")
    tensors.pop(key, None)
    if shape is not None:
        tensors[key] = torch.zeros(shape)
    folder = copied(heads["bert"], tmp_path / "part", tensors)
    said = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(said))
    encoder = load(folder)
    with pytest.raises(UsageError, match="not whole") as caught:
        MLM().decided(encoder)
    assert key in str(caught.value.expected)
    assert "mlm.head=random" in str(caught.value.hint)


def test_weights_without_a_head_have_none(tmp_path: Path) -> None:
    """Nor have those of classifiers, and T5's decoder is none of an encoder's."""
    folder = save_encoder(tmp_path / "bert", "bert")
    encoder = load(folder)
    assert carried_head(encoder, "weights") is None
    objective, said = MLM().decided(encoder)
    assert (objective.head, said[:19]) == ("embeddings", "mlm.head=embeddings")
    assert MLM(head="random").decided(encoder) == (MLM(head="random"), "")
    config = hf.T5Config(vocab_size=25, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    hf.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "bert")
    assert carried_head(load(folder), "weights") is None
    kind = hf.ModernBertForSequenceClassification(hf.ModernBertConfig(**KINDS["modernbert"][2]))
    kind.save_pretrained(tmp_path / "bert")
    assert carried_head(load(folder), "weights") is None


def test_word_embeddings_are_a_head_where_they_are_as_wide_as_tokens(
    heads: dict[str, Path], tmp_path: Path
) -> None:
    """Logits are products with them, and nothing else; ELECTRA's are narrower, so it has none.

    They stay in float32 where the trunk, and they in it, are brought to half of that.
    """
    encoder = load(heads["bert"])
    head = carried_head(encoder, "embeddings")
    assert head is not None
    tokens = torch.randn(3, WIDTH)
    table = encoder.module.get_input_embeddings().weight.clone()
    gradient_path(encoder, torch.bfloat16)
    assert encoder.module.get_input_embeddings().weight.dtype == torch.bfloat16
    torch.testing.assert_close(head(tokens), tokens @ table.T)
    electra = load(save_encoder(tmp_path / "electra", "electra"))
    assert carried_head(electra, "embeddings") is None
    assert MLM().decided(electra)[0].head == "random"


def test_the_paths_of_embeddings_stay_fast(heads: dict[str, Path]) -> None:
    """Losses of tokens go through whole blocks, beside the fast path of embeddings and kl."""
    encoder = load(heads["bert"])
    path = gradient_path(encoder)
    assert not isinstance(path, LayerPath)
    assert isinstance(token_path(encoder, path), LayerPath)
    assert isinstance(MLM(), Undecided)


@pytest.mark.parametrize(
    "parameters", [{"views": 0}, {"masked": 0.0}, {"masked": 1.1}, {"head_dim": 0}]
)
def test_meaningless_parameters_are_refused(parameters: dict[str, Any]) -> None:
    """A parameter without a sensible loss is named, with what it takes."""
    (name,) = parameters
    with pytest.raises(UsageError, match=f"mlm.{name}"):
        MLM(**parameters)


def test_views_are_what_the_parameters_say() -> None:
    """Copies, share and rule reach the request."""
    objective = MLM(views=5, masked=0.3, rule="bert")
    assert objective.needs.views == MaskedWords(5, 0.3, "bert")
