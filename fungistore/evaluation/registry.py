"""The evaluations by name: each is a class of options that says what it is and who runs it."""

from __future__ import annotations

from fungistore.registry import Registry

NAMES = ("knn", "linear", "cluster", "retrieval", "zero-shot", "compare")
EVALUATIONS = Registry(
    "evaluation",
    "fungistore.evaluations",
    {
        name: f"fungistore.evaluation.options:{name.title().replace('-', '')}Options"
        for name in NAMES
    }
    | {
        "adapted": "fungistore.adaptation.evaluate_options:AdaptedOptions",
        "loff": "fungistore.loff.evaluate_options:LoffOptions",
        "segment": "fungistore.segmentation.predict_options:SegmentationOptions",
        "icl": "fungistore.prompting.options:IclOptions",
    },
)
