"""Answers from features: nearest neighbours, probes, clusters, retrieval, comparisons."""

from fungistore.evaluation.cluster import ClusterOptions, evaluate_cluster
from fungistore.evaluation.compare import CompareOptions, Comparison, compare_features
from fungistore.evaluation.knn import KnnOptions, evaluate_knn
from fungistore.evaluation.linear import LinearOptions, evaluate_linear
from fungistore.evaluation.result import Evaluation, Score
from fungistore.evaluation.retrieval import RetrievalOptions, evaluate_retrieval

__all__ = [
    "ClusterOptions",
    "CompareOptions",
    "Comparison",
    "Evaluation",
    "KnnOptions",
    "LinearOptions",
    "RetrievalOptions",
    "Score",
    "compare_features",
    "evaluate_cluster",
    "evaluate_knn",
    "evaluate_linear",
    "evaluate_retrieval",
]
