"""LOFF-TA: a compact classifier trained on cached patch tensors with tensor augmentations."""

from fungistore.loff.augment import Augmentation, Draw, augment, draw
from fungistore.loff.evaluate import LoffEvaluation, evaluate_loff
from fungistore.loff.heads import HeadSpec, build_head
from fungistore.loff.options import TrainOptions
from fungistore.loff.predict import PredictResult, predict_images, predict_rows
from fungistore.loff.train import TrainResult, train_loff

__all__ = [
    "Augmentation",
    "Draw",
    "HeadSpec",
    "LoffEvaluation",
    "PredictResult",
    "TrainOptions",
    "TrainResult",
    "augment",
    "build_head",
    "draw",
    "evaluate_loff",
    "predict_images",
    "predict_rows",
    "train_loff",
]
