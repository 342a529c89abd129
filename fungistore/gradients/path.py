"""Which gradient path suits a backbone."""

from __future__ import annotations

import torch

from fungistore.backbones.backbone import Backbone
from fungistore.gradients.class_token import ClassTokenPath, takes_class_token_path
from fungistore.gradients.general import LayerPath
from fungistore.gradients.tape import GradientPath


def gradient_path(
    backbone: Backbone, dtype: torch.dtype = torch.float32, *, compiled: bool = False
) -> GradientPath:
    """Return the fastest exact path for a backbone; it takes the backbone's modules over."""
    path = ClassTokenPath if takes_class_token_path(backbone) else LayerPath
    return path(backbone, dtype, compiled=compiled)
