"""A model's own tokenizer: from a text to the ids of its pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from fungistore.backbones.texts.pooling import LENGTHS
from fungistore.backbones.transformers_folders import read_json
from fungistore.errors import FungiError, UsageError
from fungistore.quantities import counted

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Every file that decides how texts are cut; a directory has some of them.
VOCABULARIES = (
    "tokenizer.json",
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("tokenizer.model", "bpe.codes", "spm.model", "sentencepiece.model"),
)
FILES = (
    *VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("normalizer.json", "entity_vocab.json"),
)
MOST_SAID = 1_000_000  # tokens; transformers writes 1e30 where nobody knows
SENTINEL = "<extra_id_{}>"  # T5's, each of which stands for one place
ROLES = ("bos", "eos", "sep", "pad", "cls", "mask")  # of special tokens, beside unknown words
MOST_CHARACTERS = 64  # of a token, on average; of texts that have fewer tokens, more is read


@dataclass(frozen=True)
class TokenizerPieces:
    """Cuts texts into pieces; its state never changes, so any number of threads may share it.

    Attributes:
        tokenizer: of the tokenizers library; cuts off what is longer than `max_length`.
        max_length: tokens that a text has at most, special ones included.
        padding: the id of a token that is not real.
        prompt: what goes before each text.
        masks: ids that stand for masked pieces, in turn: the mask token, or T5's sentinels.
        special: ids of special tokens, but that of unknown words.
    """

    tokenizer: Tokenizer
    max_length: int
    padding: int
    prompt: str = ""
    masks: tuple[int, ...] = ()
    special: frozenset[int] = frozenset()

    def __call__(self, text: str) -> tuple[list[int], int]:
        """Return the ids of a text, special ones included, and how many it has in all.

        Of a text far beyond the greatest length they are counted no further.
        """
        found, length = self._encoded(text)
        return found.ids, length

    def of_text(self, text: str) -> tuple[list[int], int, list[bool]]:
        """Return what a call does, and which of the ids are pieces of the text itself.

        The prompt ends before they do; tokens that are put around a text end at 0.
        """
        found, length = self._encoded(text)
        own = [
            number not in self.special and end > len(self.prompt)
            for number, (_, end) in zip(found.ids, found.offsets, strict=True)
        ]
        return found.ids, length, own

    @cached_property
    def ordinary(self) -> Int[np.ndarray, " n"]:
        """Ids of the vocabulary that are no special token's, ascending."""
        known = set(self.tokenizer.get_vocab().values())
        return np.array(sorted(known - self.special), np.int32)

    def _encoded(self, text: str) -> tuple[Encoding, int]:
        """Return the encoding of a text, and how many tokens it has in all."""
        whole = self.prompt + text
        special = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        read = self.max_length * MOST_CHARACTERS
        while True:
            found = self.tokenizer.encode(whole[:read])
            length = len(found.ids) + sum(len(rest.ids) - special for rest in found.overflowing)
            if length > self.max_length or read >= len(whole):
                return found, length
            read *= 4  # blanks, or words that a model does not know, are many characters a token


def open_pieces(
    folder: Path, loaded: Mapping[str, Any], max_length: int, prompt: str
) -> TokenizerPieces:
    """Return the tokenizer of a model's directory.

    Args:
        folder: the directory.
        loaded: settings of transformers' loading.
        max_length: tokens that a text has at most.
        prompt: what goes before each text.

    Raises:
        UsageError: it has none, or texts have no room behind the prompt.
        FungiError: it has one that needs a package that is not here.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in VOCABULARIES):
        # transformers makes one of no words, for which all texts are the same
        raise UsageError(
            "the model has no tokenizer",
            where=folder,
            expected="its vocabulary, such as tokenizer.json, vocab.txt or spiece.model",
            hint="download all of the model's files, or save its tokenizer beside it",
        )
    try:
        found: Any = AutoTokenizer.from_pretrained(folder, use_fast=True, **loaded)
        tokenizer = Tokenizer.from_str(found.backend_tokenizer.to_str())
    except Exception as error:  # transformers raises whatever it meets
        raise FungiError(
            "the model's tokenizer cannot be used",
            where=folder,
            found=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            hint="a tokenizer.json beside the model serves best; others may need `pip install "
            "sentencepiece protobuf`",
        ) from error
    tokenizer.no_truncation()  # which a tokenizer.json may have, as the padding
    tokenizer.no_padding()
    taken = len(tokenizer.encode(prompt).ids)
    if taken >= max_length:
        raise UsageError(
            "a text has no room",
            where=f"--max-length {max_length}" + (f", --prompt {prompt!r}" if prompt else ""),
            expected=f"more than the {counted(taken, 'token')} around it",
            hint="a greater --max-length, or a shorter --prompt",
        )
    tokenizer.enable_truncation(max_length)
    return TokenizerPieces(
        tokenizer, max_length, found.pad_token_id or 0, prompt, _masks(found), _special(found)
    )


def _masks(tokenizer: Any) -> tuple[int, ...]:
    """Return what stands for masked pieces: one token, or T5's, each for one place (<extra_id_0>).

    Source of the latter: Raffel et al. 2020 (T5), section 3.1.4.
    """
    if tokenizer.mask_token_id is not None:
        return (tokenizer.mask_token_id,)
    known = tokenizer.get_vocab()
    in_order = map(SENTINEL.format, count())
    return tuple(known[one] for one in takewhile(known.__contains__, in_order))


def _special(tokenizer: Any) -> frozenset[int]:
    """Return the ids of all special tokens but that of unknown words, which are words."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().items()
    special = {*tokenizer.all_special_ids, *(number for number, one in added if one.special)}
    roles = {getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    return frozenset(special - ({tokenizer.unk_token_id} - roles))


def digest_of_files(folder: Path) -> str:
    """Return a digest of the files that decide how texts are cut."""
    digest = hashlib.blake2b(digest_size=16)
    for name in FILES:
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            digest.update(f"{name}:{len(content)};".encode() + content)
    return digest.hexdigest()


def own_length(folder: Path) -> int | None:
    """Return the tokens that a directory says its model takes; None where it names no number."""
    said = read_json(folder, LENGTHS).get("max_seq_length")
    length = said or read_json(folder, "tokenizer_config.json").get("model_max_length")
    return int(length) if isinstance(length, int | float) and length < MOST_SAID else None
