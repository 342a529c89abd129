"""In-context segmentation with patch gradients in plain torch: what fungi's is checked against.

Nothing of fungi is imported. Shapes are in brackets: B images, T patch tokens, P = 1 + T with the
class token, D wide, G projected.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - everybody's name

MODEL = "vit_small_patch14_dinov2"
PATCH = 14
LARGEST = 518  # the size that the weights' positions were trained at
TAIL = 10  # the first block that gradients may be asked of: what is before it is run once
TEMPERATURE = 0.07  # of InfoNCE
HEAD_DIM = 96
KL_TEMPERATURE, KL_DIM = 15.0, 768
NEIGHBOURS, KEPT = 2, 0.5  # negatives of a token, and how many of them stay
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def generator(seed: int, *names: object) -> torch.Generator:
    """A named source of random numbers on the CPU, the same for every device."""
    name = " ".join(map(str, names))
    return torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))


# ---------------------------------------------------------------- backbone


def load_backbone(state: dict[str, Tensor], device: torch.device) -> VisionTransformer:
    """DINOv2 ViT-S/14, frozen, for images of any multiple of 14."""
    model = timm.create_model(
        MODEL, pretrained=False, num_classes=0, img_size=LARGEST, dynamic_img_size=True
    )
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False).to(device)


@torch.no_grad()
def forward(model: VisionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens after the final norm [B, P, D], and those that enter block TAIL, to start again there.

    Args:
        model: the backbone.
        images: uint8 [B, 3, H, W].
    """
    pixels = images.float() / 255
    mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    entering: list[Tensor] = []
    hook = model.blocks[TAIL].register_forward_pre_hook(
        lambda _module, inputs: entering.append(inputs[0])
    )
    try:
        tokens = model.forward_features((pixels - mean) / deviation)
    finally:
        hook.remove()
    return tokens, entering[0]


def token_gradients(
    model: VisionTransformer, entering: Tensor, layer: str, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The factors of each token's gradient at a linear layer: b_t (x) [a_t, 1].

    Args:
        model: the backbone.
        entering: the tokens before block TAIL [B, P, D].
        layer: the linear layer's path, in block TAIL or later.
        loss: of the tokens after the final norm [B, P, D]; summed over the images.

    Returns:
        a [B, P, in], the layer's input, and b [B, P, out], the gradient of its output.
    """
    seen: list[Tensor] = []

    def cut(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        seen.extend((inputs[0].detach(), leaf))
        return leaf

    hook = model.get_submodule(layer).register_forward_hook(cut)
    try:
        tokens = entering
        for block in list(model.blocks)[TAIL:]:
            tokens = block(tokens)
        total = loss(model.norm(tokens))
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(total, seen[1])
    return seen[0], gradient


# ---------------------------------------------------------------- objectives


def linear_head(dim: int, out: int, seed: int, name: str) -> nn.Linear:
    """torch's default head, U(+-1 / sqrt(dim)) for weight and bias, from a named source."""
    head = nn.Linear(dim, out).requires_grad_(False)
    draws = generator(seed, "head", name)
    for values in (head.weight, head.bias):
        values.uniform_(-1 / math.sqrt(dim), 1 / math.sqrt(dim), generator=draws)
    return head


def info_nce(positives: Tensor, negatives: Tensor, keep: Tensor, in_denominator: bool) -> Tensor:
    """InfoNCE of images whose tokens are each other's positives, summed over images.

    Args:
        positives: latents [B, P, d].
        negatives: latents [B, N, d].
        keep: which negatives count [B, N].
        in_denominator: whether the temperature divides there too: the paper's equation 5 and its
            vision code do, the code for segmentation does not.
    """
    count = positives.shape[1]
    anchors = F.normalize(positives, dim=-1)
    others = torch.cat([anchors, F.normalize(negatives, dim=-1)], dim=1)
    cosines = anchors @ others.mT  # [B, P, P + N]
    itself = torch.eye(count, dtype=torch.bool, device=cosines.device)
    out = torch.cat([itself.expand(len(keep), -1, -1), ~keep[:, None].expand(-1, count, -1)], -1)
    pulled = cosines[..., :count].masked_fill(itself, 0).sum(-1) / TEMPERATURE / (count - 1)
    scale = TEMPERATURE if in_denominator else 1.0
    pushed = (cosines / scale).masked_fill(out, -torch.inf).logsumexp(-1)
    return (pushed - pulled).mean(-1).sum()


def kl_to_uniform(logits: Tensor) -> Tensor:
    """KL(U || softmax(z / 15)), mean over tokens, summed over images."""
    inverse = -F.log_softmax(logits / KL_TEMPERATURE, dim=-1).mean(-1) - math.log(logits.shape[-1])
    return inverse.mean(-1).sum()


def scrambled(neighbours: Tensor) -> Tensor:
    """The reference's reshape of neighbours [B, P, n, D], which mixes them."""
    batch, count, each, dim = neighbours.shape
    return neighbours.reshape(batch, count, dim, each).permute(0, 1, 3, 2)


# ---------------------------------------------------------------- projection


@dataclass(frozen=True)
class Binary:
    """The paper's projection: G signs for every entry of [out, in + 1], exact."""

    signs: Tensor  # [G, out * (in + 1)]

    @classmethod
    def draw(cls, sizes: tuple[int, int], dim: int, seed: int) -> Binary:
        """Draw for outputs and inputs of these sizes (the input's with the bias' 1)."""
        draws = generator(seed, "binary", *sizes, dim)
        bits = torch.randint(2, (dim, sizes[0] * sizes[1]), generator=draws, dtype=torch.int8)
        return cls(bits.float() * 2 - 1)

    def to(self, device: torch.device) -> Binary:
        """Return the same on a device."""
        return Binary(self.signs.to(device))

    def __call__(self, b: Tensor, a1: Tensor) -> Tensor:
        """Project b [n, out] (x) a1 [n, in + 1]; a few tokens at a time have the whole product."""
        chunk = max(1, (2**28 if b.is_cuda else 2**24) // self.signs.shape[1])
        parts = zip(b.split(chunk), a1.split(chunk), strict=True)
        return torch.cat([(x[:, :, None] * y[:, None]).flatten(1) @ self.signs.T for x, y in parts])


@dataclass(frozen=True)
class Structured:
    """Projections of rank-one matrices that need their factors alone, both with unbiased products.

    TensorSketch convolves count sketches of b and of [a, 1] (`convolve`); `rank-one` multiplies
    random signs of both, which is a binary projection whose matrices have rank one.
    """

    left: Tensor  # [out, G]
    right: Tensor  # [in + 1, G]
    convolve: bool

    @classmethod
    def draw(cls, sizes: tuple[int, int], dim: int, seed: int, convolve: bool) -> Structured:
        """Draw for outputs and inputs of these sizes (the input's with the bias' 1)."""
        draws = generator(seed, "structured", *sizes, dim, convolve)
        sides = []
        for size in sizes:
            signs = torch.randint(2, (size, dim), generator=draws).float() * 2 - 1
            if convolve:  # one sign a row: a count sketch as a matrix
                column = torch.randint(dim, (size, 1), generator=draws)
                signs *= torch.zeros_like(signs).scatter_(1, column, 1.0)
            sides.append(signs)
        return cls(sides[0], sides[1], convolve)

    def to(self, device: torch.device) -> Structured:
        """Return the same on a device."""
        return Structured(self.left.to(device), self.right.to(device), self.convolve)

    def __call__(self, b: Tensor, a1: Tensor) -> Tensor:
        """Project b [n, out] (x) a1 [n, in + 1]."""
        one, other = b @ self.left, a1 @ self.right
        if not self.convolve:
            return one * other
        spectrum = torch.fft.rfft(one) * torch.fft.rfft(other)
        return torch.fft.irfft(spectrum, n=one.shape[1])


def draw_projection(kind: str, sizes: tuple[int, int], dim: int, seed: int) -> Binary | Structured:
    """Draw a projection: `binary`, `tensorsketch` or `rank-one`."""
    if kind == "binary":
        return Binary.draw(sizes, dim, seed)
    return Structured.draw(sizes, dim, seed, convolve=kind == "tensorsketch")


# ---------------------------------------------------------------- features and bank


def joined(blocks: list[tuple[Tensor, float]]) -> Tensor:
    """Blocks of features [..., dim], each made unit and weighted, concatenated, unit."""
    return F.normalize(torch.cat([F.normalize(x, dim=-1) * w for x, w in blocks], -1), dim=-1)


def principal(rows: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The mean [D] and the leading principal axes [D, dim] of rows, in float64."""
    exact = rows.double()
    mean = exact.mean(0)
    _, axes = torch.linalg.eigh((exact - mean).T @ (exact - mean))
    return mean.to(rows.dtype), axes.flip(1)[:, :dim].to(rows.dtype)


def cell_counts(mask: Tensor, grid: int, classes: int) -> Tensor:
    """Pixels of each class in each patch [T, C] of a mask [S, S], S a multiple of the grid."""
    side = mask.shape[0] // grid
    place = torch.arange(mask.shape[0], device=mask.device) // side
    cell = place[:, None] * grid + place
    flat = (cell * classes + mask.long()).flatten()
    return torch.bincount(flat, minlength=grid * grid * classes).view(-1, classes)


def patch_scores(counts: Tensor) -> Tensor:
    """Of each patch [T], the sum over its classes of the image's patches with it."""
    has = counts > 0
    return (has * has.sum(0)).sum(1)


def nearest(
    queries: Tensor, bank: Tensor, k: int, ours: Tensor | None = None, owners: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and places [q, k] of the nearest of unit bank vectors [M, D].

    Args:
        queries: unit vectors [q, D].
        bank: unit vectors.
        k: how many.
        ours: the image of each query [q]; its own vectors in the bank are passed over.
        owners: the image of each bank vector [M].
    """
    chunk = max(1, (2**28 if bank.is_cuda else 2**25) // len(bank))
    found = []
    for start in range(0, len(queries), chunk):
        cosines = queries[start : start + chunk] @ bank.T
        if ours is not None and owners is not None:
            cosines.masked_fill_(ours[start : start + chunk, None] == owners, -torch.inf)
        found.append(cosines.topk(min(k, len(bank))))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def cross_attention(cosines: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Soft labels [q, C] of queries: their neighbours' [q, k, C], softmax(cos / beta)."""
    return ((cosines / beta).softmax(-1)[..., None] * labels).sum(1)


def segmented(soft: Tensor, height: int, width: int) -> Tensor:
    """Classes [H, W] from the soft labels of patches [h, w, C]: bilinear, then argmax."""
    maps = soft.permute(2, 0, 1)[None]
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)[0].argmax(0)


def intersection_over_union(confusion: Tensor) -> Tensor:
    """IoU of each class [C] from counts [true, predicted]; NaN of classes that neither has."""
    counts = confusion.double()
    both = counts.diag()
    return both / (counts.sum(0) + counts.sum(1) - both)


def confusion_of(true: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts [true, predicted] of pixels."""
    flat = true.flatten().long() * classes + predicted.flatten()
    return torch.bincount(flat, minlength=classes * classes).view(classes, classes)


def batches(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `count`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def as_tensor(images: list[np.ndarray]) -> Tensor:
    """Images [H, W, 3] of one size as uint8 [N, 3, H, W]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
