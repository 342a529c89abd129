"""Text encoders cut at the last attention's output projection, where the first token is pooled.

The trunk is the model without its last block. Of that block one query is needed, the first
token's, and one row of everything behind it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungistore.backbones.encoder import ClassTokenSplit, TokenGrid
from fungistore.modalities.views import Inputs

# whose blocks are BERT's: attention, add and norm, perceptron, add and norm
LIKE_BERT = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel", "ElectraModel")
LIKE_T5 = ("T5EncoderModel", "MT5EncoderModel")


def split_of(model: Any, target: nn.Module | None) -> ClassTokenSplit | None:
    """Return a model cut at a target layer; None where that is not its last projection."""
    kind = type(model).__name__
    if kind in LIKE_BERT and target is model.encoder.layer[-1].attention.output.dense:
        return BertSplit(model)
    if kind in LIKE_T5 and target is model.encoder.block[-1].layer[0].SelfAttention.o:
        return T5Split(model)
    return None


def visible(real: Bool[Tensor, "n t"]) -> Bool[Tensor, "n 1 t t"]:
    """Return which tokens each token sees: the real ones.

    In full, since transformers leaves a mask out where all tokens are real; and then other kernels
    would compute a text of full length, depending on its company.
    """
    return real[:, None, None, :].expand(-1, 1, real.shape[1], -1)


def attended(
    query: Float[Tensor, "n h e"],
    keys: nn.Linear,
    values: nn.Linear,
    tokens: Float[Tensor, "n t d"],
    bias: Float[Tensor, "... h t"],
) -> Float[Tensor, "n i"]:
    """Return what one query of each text attends to.

    Neither keys nor values of all tokens are needed: the query goes through the keys' weights
    instead, and the tokens' mean through the values'. A bias of the keys adds the same to all
    scores of a softmax and drops out.

    Args:
        query: scaled.
        keys: makes them of tokens.
        values: makes them of tokens.
        tokens: that the query meets.
        bias: what is added to the scores, minus infinity for tokens that are not real.
    """
    heads = query.shape[1:]
    folded = torch.einsum("nhe,hed->nhd", query, keys.weight.unflatten(0, heads))
    mean = (folded @ tokens.mT + bias).softmax(-1) @ tokens
    found = torch.einsum("nhd,hed->nhe", mean, values.weight.unflatten(0, heads)).flatten(1)
    return found if values.bias is None else found + values.bias


def hidden(real: Bool[Tensor, "n t"]) -> Float[Tensor, "n 1 t"]:
    """Return what is added to the scores of one query."""
    return torch.zeros(real.shape, device=real.device).masked_fill(~real, -torch.inf)[:, None]


def _without_last(model: Any, blocks: str) -> Any:
    """Return a model that shares all but its last block, and what is behind that, with another."""
    trunk, stack = copy.copy(model), copy.copy(model.encoder)
    trunk._modules, stack._modules = dict(model._modules), dict(model.encoder._modules)
    trunk.encoder = stack
    setattr(stack, blocks, getattr(stack, blocks)[:-1])
    return trunk


class BertSplit:
    """BERT and its kin.

    Args:
        model: of transformers, its trunk prepared.
    """

    def __init__(self, model: Any) -> None:
        self._trunk = _without_last(model, "layer")
        self._trunk.pooler = None
        self._layer: Any = model.encoder.layer[-1]

    @property
    def projection(self) -> nn.Linear:
        """The last block's `attention.output.dense`."""
        layer: nn.Linear = self._layer.attention.output.dense
        return layer

    def trunk(self, inputs: Inputs) -> Float[Tensor, "n t d"]:
        """Run everything before the last block."""
        ids, real = inputs
        tokens: Tensor = self._trunk(input_ids=ids, attention_mask=visible(real)).last_hidden_state
        return tokens

    def attend(self, tokens: Float[Tensor, "n t d"], inputs: Inputs) -> Float[Tensor, "n i"]:
        """Return the last attention's output for the first token, in float32."""
        attention, tokens = self._layer.attention.self, tokens.float()
        shape = (attention.num_attention_heads, attention.attention_head_size)
        query = attention.query(tokens[:, 0]).unflatten(1, shape) * shape[1] ** -0.5
        return attended(query, attention.key, attention.value, tokens, hidden(inputs[1]))

    def tail(
        self, residual: Float[Tensor, "b v d"], output: Float[Tensor, "b v d"]
    ) -> Float[Tensor, "b v d"]:
        """Finish the last block for first tokens alone."""
        token = self._layer.attention.output.LayerNorm(output + residual)
        found: Tensor = self._layer.output(self._layer.intermediate(token), token)
        return found

    def patches(self, tokens: Float[Tensor, "n t d"], inputs: Inputs) -> TokenGrid:
        """Return all tokens of the last block."""
        real = inputs[1]
        found = self._layer(tokens.float(), visible(real))
        return TokenGrid(found[0] if isinstance(found, tuple) else found, real)


class T5Split:
    """The encoders of T5 and mT5.

    Args:
        model: of transformers, its trunk prepared.
    """

    def __init__(self, model: Any) -> None:
        self._trunk = _without_last(model, "block")
        self._trunk.encoder.final_layer_norm = nn.Identity()
        self._block: Any = model.encoder.block[-1]
        self._positions: Any = model.encoder.block[0].layer[0].SelfAttention
        self._norm: Any = model.encoder.final_layer_norm

    @property
    def projection(self) -> nn.Linear:
        """The last block's `SelfAttention.o`."""
        layer: nn.Linear = self._block.layer[0].SelfAttention.o
        return layer

    def trunk(self, inputs: Inputs) -> Float[Tensor, "n t d"]:
        """Run everything before the last block."""
        ids, real = inputs
        tokens: Tensor = self._trunk(input_ids=ids, attention_mask=visible(real)).last_hidden_state
        return tokens

    def attend(self, tokens: Float[Tensor, "n t d"], inputs: Inputs) -> Float[Tensor, "n i"]:
        """Return the last attention's output for the first token, in float32.

        The scores are not scaled, and have the bias of positions that the first block holds.
        """
        attention, tokens = self._block.layer[0].SelfAttention, tokens.float()
        normed = self._block.layer[0].layer_norm(tokens)
        shape = (attention.n_heads, attention.key_value_proj_dim)
        query = attention.q(normed[:, 0]).unflatten(1, shape)
        positions = self._positions.compute_bias(1, tokens.shape[1])[0, :, 0].float()
        return attended(query, attention.k, attention.v, normed, hidden(inputs[1]) + positions)

    def tail(
        self, residual: Float[Tensor, "b v d"], output: Float[Tensor, "b v d"]
    ) -> Float[Tensor, "b v d"]:
        """Finish the last block and the final norm for first tokens alone."""
        found: Tensor = self._norm(self._block.layer[-1](residual + output))
        return found

    def patches(self, tokens: Float[Tensor, "n t d"], inputs: Inputs) -> TokenGrid:
        """Return all tokens after the last block and the final norm."""
        real, length = inputs[1], tokens.shape[1]
        positions = self._positions.compute_bias(length, length).float()
        found = self._block(tokens.float(), visible(real), positions)[0]
        return TokenGrid(self._norm(found), real)
