"""What is trained: a backbone with its adapter, and a linear classifier on its embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from jaxtyping import Float
from timm.models._manipulate import group_parameters
from torch import Tensor, nn

from fungistore.adaptation.options import FULL, AdaptOptions
from fungistore.backbones.adapters.adaptation import BACKBONE, CLASSIFIER
from fungistore.backbones.adapters.adapter import Adapter, load_trained, trained_state
from fungistore.backbones.encoder import Encoder
from fungistore.randomness import Stream
from fungistore.training.checkpoint import below
from fungistore.training.task import Tensors

INITIAL_DEVIATION = 0.01  # of the classifier's weights: its first answers are nearly even


class AdaptedModel(nn.Module):
    """An adapted backbone and its classifier.

    Args:
        encoder: whose module is adapted, in place.
        adapter: how.
        classes: of the classifier.
        seed: of the adapter's initial weights, and the classifier's.
    """

    def __init__(self, encoder: Encoder, adapter: Adapter, classes: int, seed: int) -> None:
        super().__init__()
        self.backbone: Any = encoder.module
        adapter.attach(self.backbone, seed=seed)
        width = encoder.embedding_dim
        self.classifier = nn.Linear(width, classes)
        drawn = Stream(seed, "classifier").normal(classes, width) * INITIAL_DEVIATION
        self.classifier.weight.data = torch.from_numpy(drawn).float()
        self.classifier.bias.data.zero_()

    def forward(self, pixels: Float[Tensor, "b 3 s s"], *, bfloat16: bool) -> Float[Tensor, "b c"]:
        """Return logits: the backbone's products in bfloat16 if asked, the classifier's never."""
        with torch.autocast(pixels.device.type, torch.bfloat16, bfloat16):
            embeddings = self.backbone(pixels)
        logits: Tensor = self.classifier(embeddings.float())
        return logits

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; what is frozen keeps evaluating.

        A frozen batch norm would else change its statistics, which nobody trains, and a frozen
        backbone leave out some of its layers, where timm builds it with stochastic depth (Swin).
        """
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        for module in self._batch_norms():
            if not _is_trained(module):
                module.eval()
        return self

    @property
    def trains_batch_norms(self) -> bool:
        """Whether a forward changes more than activations: the statistics of batch norms."""
        return any(map(_is_trained, self._batch_norms()))

    def _batch_norms(self) -> Iterator[nn.Module]:
        kind = nn.modules.batchnorm._BatchNorm
        return (module for module in self.backbone.modules() if isinstance(module, kind))

    def state(self) -> Tensors:
        """Return what is trained, by name: live tensors, not copies."""
        state = {BACKBONE + name: tensor for name, tensor in trained_state(self.backbone).items()}
        return state | {CLASSIFIER + n: t for n, t in self.classifier.named_parameters()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave.

        Raises:
            ValueError: it is of another adapter, or number of classes.
            RuntimeError: likewise.
        """
        load_trained(self.backbone, below(dict(tensors), BACKBONE))
        self.classifier.load_state_dict(below(dict(tensors), CLASSIFIER))

    def count_trained(self) -> int:
        """Return how many numbers are trained, the classifier's among them."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def parameter_groups(model: AdaptedModel, options: AdaptOptions) -> list[dict[str, Any]]:
    """Return parameters for AdamW, grouped by weight decay and by rate.

    Matrices decay; biases, norms, and what timm exempts, such as position embeddings, do not. With
    `full`, rates fall from the last block to the first by `layer_decay` each (BEiT, ICLR 2022,
    appendix; timm's grouping by depth): a classifier that begins at nothing needs larger steps than
    embeddings that were trained for long.
    """
    decays = options.layer_decay if options.method == FULL else 1.0
    exempt: set[str] = getattr(model.backbone, "no_weight_decay", set)()
    depths: dict[str, int] = {}
    if decays < 1 and hasattr(model.backbone, "group_matcher"):
        matcher = model.backbone.group_matcher(coarse=False)
        depths = group_parameters(model.backbone, matcher, reverse=True)
    above = max(depths.values(), default=-1) + 1  # the classifier, whose rate is the whole one
    groups: dict[tuple[bool, int], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = name.removeprefix(BACKBONE)
        depth = depths.get(own, above) if name.startswith(BACKBONE) else above
        is_decaying = parameter.ndim >= 2 and own not in exempt
        groups.setdefault((is_decaying, depth), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": options.weight_decay if is_decaying else 0.0,
            "lr_scale": decays ** (above - depth),
        }
        for (is_decaying, depth), parameters in groups.items()
    ]


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))
