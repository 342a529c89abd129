"""What a light installation needs: no CUDA, and faiss for CPUs. pip cannot leave a dependency out.

python tests/install/light_requirements.py                    # what requirements-cpu.txt holds
python tests/install/light_requirements.py demo test lint     # with what these extras need
python tests/install/light_requirements.py --constraints      # constraints.txt without the builds
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEADER = """\
# The light installation, without CUDA: 1.6 GB for 7.4. In this order, in an empty environment:
#     pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
#     pip install --requirement requirements-cpu.txt
#     pip install --no-deps .
# These are pyproject.toml's dependencies with faiss-cpu for faiss-gpu; a test compares them.
"""
BUILDS = re.compile(r"(torch|torchvision|triton|faiss-gpu|nvidia-.*|cuda-.*)==")


def light_requirements(*extras: str) -> Iterator[str]:
    """Yield pyproject.toml's dependencies, with those of some extras, and the CPU's faiss alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    for line in [*project["dependencies"], *(one for name in extras for one in optional[name])]:
        if not line.startswith("faiss-gpu"):
            yield line.partition(";")[0] if line.startswith("faiss-cpu") else line


def light_constraints() -> Iterator[str]:
    """Yield the versions that the tests ran with, but for what is of one build or another."""
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not BUILDS.match(line):
            yield line


if __name__ == "__main__":
    words = sys.argv[1:]
    lines = light_constraints() if words == ["--constraints"] else light_requirements(*words)
    print(*([] if words else [HEADER.rstrip()]), *lines, sep="\n")
