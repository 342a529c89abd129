"""The objectives by name: ours, and those of plug-ins.

`NAME@MODALITY` is what NAME means for the items of a modality, where that is another objective.
"""

from __future__ import annotations

from fungistore.registry import Registry

AT = "@"  # between a name and a modality

OBJECTIVES = Registry(
    "objective",
    "fungistore.objectives",
    {
        "kl": "fungistore.objectives.kl:KL",
        "dino": "fungistore.objectives.dino:DINO",
        "deepcluster": "fungistore.objectives.deepcluster:DeepCluster",
        "simclr": "fungistore.objectives.simclr:SimCLR",
        "ibot": "fungistore.objectives.ibot:IBOT",
        "simclr@audio": "fungistore.objectives.audio_simclr:AudioSimCLR",
        "simclr@text": "fungistore.objectives.text_simclr:TextSimCLR",
        "mlm": "fungistore.objectives.mlm:MLM",
        "patches/simclr": "fungistore.objectives.patch_simclr:PatchSimCLR",
        "patches/kl": "fungistore.objectives.patch_kl:PatchKL",
    },
)


def objective_names() -> tuple[str, ...]:
    """Return what objectives are called, whatever the modality."""
    return tuple(dict.fromkeys(name.partition(AT)[0] for name in OBJECTIVES))


def own_objectives() -> tuple[str, ...]:
    """Return the names of our own, without those of plug-ins."""
    return tuple(dict.fromkeys(name.partition(AT)[0] for name in OBJECTIVES.own))


def objective_kind(name: str, modality: str) -> type:
    """Return the class that a name means for the items of a modality."""
    special = f"{name}{AT}{modality}"
    kind: type = OBJECTIVES[special if special in OBJECTIVES else name]
    return kind
