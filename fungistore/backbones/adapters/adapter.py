"""What an adapter is: what of a model is trained, and what is added to it for that.

What is added stands beside the model's own modules and runs in their hooks, so that these keep
their names, and weights, target layers and positions of a model mean the same with an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from fungistore.errors import UsageError
from fungistore.quantities import counted
from fungistore.randomness import Stream

NAMES_SHOWN = 4


@runtime_checkable
class Adapter(Protocol):
    """A way to train a model, or a little of it: a frozen dataclass of its settings.

    A plug-in adds one as an entry point of the group "fungistore.adapters".

    Attributes:
        name: what it is called.
        learning_rate: AdamW's highest, where nobody says another.
    """

    name: ClassVar[str]
    learning_rate: ClassVar[float]

    def attach(self, model: Any, *, seed: int) -> None:
        """Freeze a timm model, in place, and give it what is trained, which alone needs gradients.

        At first none of it has an effect on the model's output, but for the prompts of VPT.

        Args:
            model: timm's.
            seed: of what is drawn.

        Raises:
            UsageError: the method is not for such a model.
        """

    def merge(self, model: Any) -> None:
        """Fold what was trained into the model's own weights, in place, where that is exact.

        What cannot be folded stays as it is.
        """


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what an adapter trains of a model, by name: live tensors, not copies.

    With the parameters of a batch norm go its running statistics.
    """
    found: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.weight" in found:
            buffers = module.named_buffers(recurse=False)
            found |= {f"{name}.{buffer}": tensor for buffer, tensor in buffers}
    return found


def load_trained(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `trained_state` gave of such a model with the same adapter.

    Raises:
        ValueError: the tensors are not those of the model's adapter.
    """
    expected = trained_state(model)
    wrong = [
        name
        for name in sorted(expected.keys() | tensors.keys())
        if name not in expected
        or name not in tensors
        or expected[name].shape != tensors[name].shape
    ]
    if wrong:
        names = ", ".join(wrong[:NAMES_SHOWN]) + (", ..." if len(wrong) > NAMES_SHOWN else "")
        raise ValueError(
            f"{counted(len(wrong), 'tensor')} missing, unknown or of another shape: {names}"
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])


def blocks_in_line(model: Any, adapter: str) -> list[Any]:
    """Return the blocks of a plain vision transformer: attention, perceptron, two residuals.

    Raises:
        UsageError: the model is another.
    """
    blocks = list(getattr(model, "blocks", ()))
    if isinstance(model, VisionTransformer) and all(
        type(block) is Block and type(block.attn) is Attention for block in blocks
    ):
        return blocks
    kinds = dict.fromkeys((type(model).__name__, *(type(block).__name__ for block in blocks)))
    raise UsageError(
        "the method is not for this model",
        where=f"--method {adapter}",
        expected="a vision transformer of plain blocks (timm's VisionTransformer: ViT, DeiT, "
        "DINO, DINOv2, MAE, CLIP, SigLIP)",
        found=" of ".join(kinds),
        hint="--method full or --method linear, which take any model of timm's",
    )


def run_behind(layer: nn.Module, name: str, addition: nn.Module) -> None:
    """Let a module run behind a layer, as its child: it gets (layer, inputs, output).

    What it returns stands for the layer's output.
    """
    layer.add_module(name, addition.train(layer.training))
    added: Any = addition
    added.hook = layer.register_forward_hook(addition)


def remove_behind(layer: nn.Module, name: str) -> None:
    """Undo `run_behind`."""
    addition: Any = getattr(layer, name)
    addition.hook.remove()
    delattr(layer, name)


def drawn(stream: Stream, bound: float, like: Tensor, *shape: int) -> Tensor:
    """Return numbers uniform in [-bound, bound), of a tensor's type, where it is."""
    values = torch.from_numpy((stream.uniform(*shape) * 2 - 1) * bound)
    return values.to(like.dtype).to(like.device)
