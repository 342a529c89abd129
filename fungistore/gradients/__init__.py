"""Per-sample gradients of a frozen backbone's target layer, and their random projection."""

import torch

from fungistore.backbones import Backbone
from fungistore.gradients.class_token import ClassTokenPath, takes_class_token_path
from fungistore.gradients.general import LayerPath
from fungistore.gradients.projection import Projection, ProjectionSpec, normalized_projection
from fungistore.gradients.tape import GradientPath, Tape


def gradient_path(
    backbone: Backbone, dtype: torch.dtype = torch.float32, *, compiled: bool = False
) -> GradientPath:
    """Return the fastest exact path for a backbone; it takes the backbone's modules over."""
    path = ClassTokenPath if takes_class_token_path(backbone) else LayerPath
    return path(backbone, dtype, compiled=compiled)


__all__ = [
    "ClassTokenPath",
    "GradientPath",
    "LayerPath",
    "Projection",
    "ProjectionSpec",
    "Tape",
    "gradient_path",
    "normalized_projection",
    "takes_class_token_path",
]
