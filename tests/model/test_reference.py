"""Our features against those of the published `fungivision` 0.0.2, from one model and one image.

Both get the same backbone weights, head weights, negatives and projection matrix. For KL and DINO
both also get the same pixels, since the published transforms squash or draw crops of their own;
SimCLR's windows are each cut by its own code. Everything runs in float32 on the CPU: there the
published code casts gradients to bfloat16 when use_fp16 is on, so it is off.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from fungivision.config import DINOConfig, KLConfig, SimCLRConfig
from fungivision.wrapper import FUNGIWrapper
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor, nn

from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.backbones.timm_vit.loading import load_timm_vit
from fungistore.extraction.batches import BatchViews, stack_drawn
from fungistore.extraction.features import FeatureMaker, GradientFeature
from fungistore.gradients.path import gradient_path
from fungistore.gradients.projection import Projection, ProjectionSpec
from fungistore.objectives.dino import DINO
from fungistore.objectives.kl import KL
from fungistore.objectives.simclr import SimCLR
from fungistore.objectives.views import recipe_of

Pixels = NDArray[np.uint8]
WeightsFile = Callable[[str], Path]
ALIKE = 0.9999  # least cosine of a sample's feature with the published one

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def heads_for(objective: KL | DINO | SimCLR, width: int) -> dict[str, nn.Linear]:
    torch.manual_seed(1)
    return {
        name: nn.Linear(width, dim).requires_grad_(False)
        for name, dim in objective.needs.heads.items()
    }


def maker_for(
    backbone: TimmViT, objective: KL | DINO | SimCLR, negatives: Tensor | None
) -> tuple[FeatureMaker, dict[str, nn.Linear], Tensor]:
    """Return our feature maker, its heads, and its projection matrix as one dense tensor."""
    path = gradient_path(backbone)
    rows, columns = path.gradient_shapes[0]
    spec = ProjectionSpec("binary", backbone.token_dim, rows * columns, seed=42)
    heads = heads_for(objective, backbone.embedding_dim)
    recipe = recipe_of(objective, backbone, "model")
    maker = FeatureMaker(
        backbone,
        path,
        Projection(spec),
        {objective.name: GradientFeature(objective, recipe, heads, negatives)},
        pool=1,
        batch_size=16,
        seed=0,
        device=torch.device("cpu"),
    )
    dense = np.concatenate([spec.block(i) for i in range(spec.blocks)], axis=1)
    return maker, heads, torch.from_numpy(dense).float()


def published_extractor(
    backbone: TimmViT,
    weights: Path,
    config: KLConfig | DINOConfig | SimCLRConfig,
    heads: dict[str, nn.Linear],
    matrix: Tensor,
) -> Any:
    """Return the published extractor around a second copy of the model, with our random parts."""
    model: Any = timm.create_model(
        backbone.name, pretrained=False, num_classes=0, img_size=backbone.image_size
    )
    model.load_state_dict(backbone.module.state_dict())
    wrapper = FUNGIWrapper(
        model.eval(),
        target_layer=backbone.target_layer,
        device=torch.device("cpu"),
        input_dim=backbone.image_size,
        extractor_configs=[config],
    )
    (extractor,) = wrapper.extractors
    assert extractor.projection.shape == matrix.shape
    extractor.projection = matrix
    student = heads["student" if "student" in heads else "projection"]
    extractor.projection_head.load_state_dict(student.state_dict())
    if "teacher" in heads:
        extractor.teacher_projection.load_state_dict(heads["teacher"].state_dict())
    return extractor


def normalised(pixels: NDArray[np.uint8], backbone: TimmViT) -> Tensor:
    mean, std = (torch.tensor(backbone.data_config[k]).view(3, 1, 1) for k in ("mean", "std"))
    return (torch.from_numpy(pixels).float() / 255 - mean) / std


def batch_of(maker: FeatureMaker, photos: list[Pixels], feature: str) -> BatchViews:
    names = frozenset([feature])
    return stack_drawn([maker.drawer.draw(one, str(n), names) for n, one in enumerate(photos)])


def cosines(ours: NDArray[np.float32], theirs: Tensor) -> NDArray[np.float64]:
    one, other = ours.astype(np.float64), theirs.detach().double().numpy()
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found = np.asarray((one * other).sum(axis=1) / lengths)
    print(f"least cosine: 1 - {1 - found.min():.1e}")  # shown by `pytest -rA`
    return found


@pytest.mark.parametrize(
    ("name", "image_size", "temperature"),
    [("test_vit", 224, 1.0), ("test_vit", 224, 15.0), ("deit_tiny_patch16_224", 224, 15.0)],
)
def test_kl_features_are_the_published_ones(
    name: str,
    image_size: int,
    temperature: float,
    photos: list[Pixels],
    weights_file: WeightsFile,
) -> None:
    """KL features equal fungivision's in direction, at its temperature and at the paper's."""
    weights = weights_file(name)
    backbone = load_timm_vit(name, weights=weights, image_size=image_size)
    objective = KL(temperature=temperature)
    maker, heads, matrix = maker_for(backbone, objective, None)
    batch = batch_of(maker, photos, "kl")
    ours = maker.compute(batch, frozenset(["kl"]))
    config = KLConfig(temperature=temperature)
    theirs = published_extractor(backbone, weights, config, heads, matrix)
    views = normalised(batch["embeddings"][0].arrays[0].numpy(), backbone)
    theirs.transform = lambda number: views[number]
    expected = theirs(list(range(len(photos))))
    assert cosines(ours["gradients/kl"], expected).min() > ALIKE


@pytest.mark.parametrize(
    ("name", "image_size"), [("test_vit", 224), ("deit_tiny_patch16_224", 224)]
)
def test_dino_features_are_the_published_ones(
    name: str, image_size: int, photos: list[Pixels], weights_file: WeightsFile
) -> None:
    """DINO features of the same twelve crops have a cosine above 0.9999 with fungivision's."""
    weights = weights_file(name)
    backbone = load_timm_vit(name, weights=weights, image_size=image_size)
    maker, heads, matrix = maker_for(backbone, DINO(), None)
    photos = photos[:2]
    batch = batch_of(maker, photos, "dino")
    ours = maker.compute(batch, frozenset(["dino"]))
    theirs = published_extractor(backbone, weights, DINOConfig(), heads, matrix)
    families = [family.numpy() for family in batch["dino"][0].arrays]
    crops = normalised(np.concatenate(families, axis=1), backbone)
    assert crops.shape == (2, 12, 3, image_size, image_size)
    theirs.transform = lambda number: crops[number]
    expected = theirs(list(range(len(photos))))
    assert cosines(ours["gradients/dino"], expected).min() > ALIKE


def test_simclr_features_are_the_published_ones_from_the_image_on(
    photos: list[Pixels], weights_file: WeightsFile
) -> None:
    """SimCLR features, windows included, have a cosine above 0.9999 with fungivision's.

    The published code has no temperature in the denominator, and ImageNet's pixel statistics.
    """
    weights = weights_file("test_vit")
    backbone = load_timm_vit("test_vit", weights=weights, image_size=224)
    objective = SimCLR(negative_temperature=False, normalization="imagenet")
    encoder, heads, matrix = maker_for(backbone, objective, None)
    latents = encoder.latents(batch_of(encoder, photos[3:5], "simclr"), "simclr")
    negatives = torch.from_numpy(latents.reshape(-1, 96))
    maker, _, _ = maker_for(backbone, objective, negatives)
    photos = photos[:2]
    batch = batch_of(maker, photos, "simclr")
    ours = maker.compute(batch, frozenset(["simclr"]))
    theirs = published_extractor(backbone, weights, SimCLRConfig(), heads, matrix)
    theirs.comparison_batch = negatives
    expected = theirs([PILImage.fromarray(photo) for photo in photos])
    assert cosines(ours["gradients/simclr"], expected).min() > ALIKE


def test_negatives_are_the_published_ones(photos: list[Pixels], weights_file: WeightsFile) -> None:
    """The latents that serve as negatives equal those that fungivision's setup encodes."""
    weights = weights_file("test_vit")
    backbone = load_timm_vit("test_vit", weights=weights, image_size=224)
    maker, heads, matrix = maker_for(backbone, SimCLR(normalization="imagenet"), None)
    ours = maker.latents(batch_of(maker, photos[:2], "simclr"), "simclr")
    assert ours.shape == (2, 49, 96)
    config = SimCLRConfig(comparison_batch_size=2)
    theirs = published_extractor(backbone, weights, config, heads, matrix)
    torch.manual_seed(0)
    theirs.setup([(PILImage.fromarray(photo), 0) for photo in photos[:2]])
    torch.manual_seed(0)
    order = torch.randperm(2).numpy()
    expected = theirs.comparison_batch.reshape(2, 49, 96).numpy()
    assert np.abs(ours[order] - expected).max() < 1e-4
