"""Words that several floors know: what a user can choose, and what the code branches on."""

from __future__ import annotations

from typing import Literal

Codec = Literal["none", "zstd", "bitround"]
StorageDtype = Literal["float16", "float32"]
ProjectionKind = Literal["binary", "gaussian", "sparse", "very-sparse", "tensorsketch"]
ReductionKind = Literal["pca", "random"]
Crop = Literal["auto", "model", "whole", "reference"]
DecodeIn = Literal["auto", "threads", "processes"]
Orientation = Literal["upright", "stored"]  # which pixels of an image its mask belongs to
GradientTokens = Literal["pooled", "first"]  # of the pooled tokens, which have a gradient
