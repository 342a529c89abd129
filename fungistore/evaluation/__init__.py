"""Answers from features: nearest neighbours, probes, clusters, retrieval, comparisons."""
