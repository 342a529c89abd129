"""Lets torchvision's CUDA build be imported beside a CPU torch, in this environment's own copy.

Where PyTorch's index of CPU builds cannot be reached, torchvision comes with CUDA, and its compiled
operators do not load beside a CPU torch. fungi and timm use none of them; what stops the import is
that two are unknown when torchvision says what shapes they give. So they are declared:

    .venv-cpu/bin/python tests/install/declare_operators.py     # where all is well, does nothing
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

DECLARATIONS = """

if not _has_ops():  # added by fungi's tests/install/declare_operators.py
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    """Try the import, and mend it where it fails for want of these operators."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        spec = find_spec("torchvision")
        if spec is None or spec.origin is None:
            raise
        module = Path(spec.origin).with_name("extension.py")
        module.write_text(module.read_text(encoding="utf-8") + DECLARATIONS, encoding="utf-8")
        print("torchvision is a CUDA build: its operators are declared, and cannot be used")


if __name__ == "__main__":
    main()
