"""Answers from features: nearest neighbours, probes, clusters, retrieval, comparisons."""

from fungistore.evaluation.knn import KnnOptions, evaluate_knn
from fungistore.evaluation.linear import LinearOptions, evaluate_linear
from fungistore.evaluation.result import Evaluation, Score

__all__ = [
    "Evaluation",
    "KnnOptions",
    "LinearOptions",
    "Score",
    "evaluate_knn",
    "evaluate_linear",
]
