"""The objectives by name: ours, and those of plug-ins."""

from __future__ import annotations

from fungistore.registry import Registry

OBJECTIVES = Registry(
    "objective",
    "fungistore.objectives",
    {
        "kl": "fungistore.objectives.kl:KL",
        "dino": "fungistore.objectives.dino:DINO",
        "simclr": "fungistore.objectives.simclr:SimCLR",
        "patches/simclr": "fungistore.objectives.patch_simclr:PatchSimCLR",
        "patches/kl": "fungistore.objectives.patch_kl:PatchKL",
    },
)
