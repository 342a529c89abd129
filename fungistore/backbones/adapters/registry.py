"""The adapters by name: ours, and those of plug-ins."""

from __future__ import annotations

from fungistore.registry import Registry

ADAPTERS = Registry(
    "adapter",
    "fungistore.adapters",
    {
        "full": "fungistore.backbones.adapters.full:Full",
        "linear": "fungistore.backbones.adapters.linear:Linear",
        "vpt": "fungistore.backbones.adapters.vpt:VPT",
        "ssf": "fungistore.backbones.adapters.ssf:SSF",
        "adaptformer": "fungistore.backbones.adapters.adaptformer:AdaptFormer",
        "lora": "fungistore.backbones.adapters.lora:LoRA",
    },
)
