"""Views of an image: the model's own transform, random crops, sliding windows."""

from fungistore.views.crops import CropFamily, DeviceCrops, RandomCrops
from fungistore.views.inference import InferenceView
from fungistore.views.patchify import Patchify
from fungistore.views.recipe import Image, ViewGroup, ViewRecipe, count_views, in_chunks, side_for
from fungistore.views.resample import resized_crops

__all__ = [
    "CropFamily",
    "DeviceCrops",
    "Image",
    "InferenceView",
    "Patchify",
    "RandomCrops",
    "ViewGroup",
    "ViewRecipe",
    "count_views",
    "in_chunks",
    "resized_crops",
    "side_for",
]
