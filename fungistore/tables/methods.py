"""What LOFF-TA's tables call a method, and in which order they have them."""

from __future__ import annotations

from fungistore.fingerprint import Config
from fungistore.loff.options import LINEAR, NONE

FROZEN, FROZEN_ON_IMAGES = "Frozen + linear", "Frozen + linear, images"
ADAPTED = {  # as papers write them, with the linear classifier that they are trained with
    "linear": FROZEN_ON_IMAGES,
    "full": "Unfrozen + linear",
    "vpt": "VPT",
    "ssf": "SSF",
    "adaptformer": "AdaptFormer",
    "lora": "LoRA",
}
BACKBONES = ADAPTED | {"full": "Unfrozen"}  # of which features are
VARIED = ("noise", "brightness", "mixup", "cutmix", "drop_tokens")  # without moving cells
HEADS = ("LOFF", "LOFF-TA", "LOFF + Pool", "LOFF-TA + Pool")


def method_of(setup: Config, config: Config) -> str:
    """Return what LOFF-TA's tables call a head's method.

    Such as "Frozen + linear", "LOFF", "LOFF-TA + Pool", and with an adapted backbone "VPT + LOFF".

    Args:
        setup: of the array that the head reads; {} where it is not known.
        config: of the head.
    """
    adapter = setup.get("backbone", {}).get("adapter")
    is_adapted = adapter is not None and adapter["method"] != "linear"  # which leaves it as it is
    before = BACKBONES.get(adapter["method"], adapter["method"]) if is_adapted else "Frozen"
    if config["head"]["kind"] == LINEAR:
        return f"{before} + linear"
    options = config["options"]
    augment = options["augment"]
    is_varied = augment["kind"] != NONE or any(augment.get(name) for name in VARIED)
    own = "LOFF-TA" if is_varied else "LOFF"
    is_pooled = options["pool"] > 1 or setup.get("patches", {}).get("pool", 1) > 1
    return (f"{before} + " if is_adapted else "") + own + (" + Pool" if is_pooled else "")


def place_of(method: str) -> tuple[int, str, int]:
    """Return what sorts methods as the paper's tables do: the frozen ones first, then each adapter.

    What follows a comma, as ", ensemble", leaves a row beside the one that it is of. Backbones that
    no paper here has come last, by the alphabet.
    """
    frozen = (FROZEN, FROZEN_ON_IMAGES, *HEADS)
    name = method if method in frozen else method.partition(", ")[0]
    if name in frozen:
        return 0, "", frozen.index(name)
    before, _, after = name.partition(" + ")
    known, own = [*BACKBONES.values()], ("", "linear", *HEADS)
    place = own.index(after) if after in own else len(own)
    return (known.index(before), "", place) if before in known else (len(known), before, place)
