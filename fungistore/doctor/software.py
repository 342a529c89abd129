"""Python, packages against their lower bounds, builds that must match, and codecs."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from packaging.requirements import Requirement

from fungistore.choices import Codec
from fungistore.doctor.check import Check, failed, passed, warned
from fungistore.store.chunks import CODECS
from fungistore.store.local import LocalBackend
from fungistore.store.units import UnitArray

DISTRIBUTION = "fungistore"
OLDEST_PYTHON = (3, 11)  # pyproject's requires-python
SHOWN = ("torch", "torchvision", "timm", "numpy", "zarr")
INSTALL = "pip install --upgrade --constraint constraints.txt ."
INSTALL_LIGHT = "pip install --upgrade --requirement requirements-cpu.txt"
CPU_TORCH = "torch torchvision --index-url https://download.pytorch.org/whl/cpu"
FAISS = ("faiss-gpu", "faiss-cpu")  # one package `import faiss`: either will do, both will not
OPTIONAL: Mapping[str, tuple[str, str]] = {
    "matplotlib": ("plots of eval", "pip install matplotlib"),
    "h5py": ("HDF5 files", "pip install h5py"),
    "pandas": ("data frames", "pip install pandas"),
    "tensorboard": ("train-loff --log-to tensorboard", "pip install tensorboard"),
}


def check_software() -> Iterator[Check]:
    """Check Python, the packages, the builds and the codecs."""
    yield judge_python(sys.version_info[:3])
    yield check_packages()
    yield check_torch()
    yield check_faiss()
    yield check_codecs()
    yield judge_optional([name for name in OPTIONAL if find_spec(name) is None])


def judge_python(found: tuple[int, ...]) -> Check:
    """Compare Python's version with the oldest that will do."""
    said = ".".join(map(str, found))
    if found[:2] >= OLDEST_PYTHON:
        return passed("Python", said)
    least = ".".join(map(str, OLDEST_PYTHON))
    return failed("Python", said, f"make a new environment with Python {least} or later")


def check_packages() -> Check:
    """Compare installed packages with what this distribution requires."""
    try:
        lines = distribution(DISTRIBUTION).requires or []
    except PackageNotFoundError:
        return warned("packages", f"{DISTRIBUTION} is not installed", INSTALL)
    required = [Requirement(line) for line in lines]
    required = [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return judge_packages(required, installed_versions({*FAISS, *(one.name for one in required)}))


def installed_versions(names: Collection[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def judge_packages(required: list[Requirement], installed: Mapping[str, str]) -> Check:
    """Compare versions with requirements; a package without a version is missing.

    Where one build of faiss is required, the other one will do.
    """
    wrong = []
    for one in required:
        names = FAISS if one.name in FAISS else (one.name,)
        found = [installed[name] for name in names if name in installed]
        if not any(one.specifier.contains(one_found, prereleases=True) for one_found in found):
            said = ", ".join(found) or "missing"
            wrong.append(f"{' or '.join(names)} {said} (needs {one.specifier or 'any'})")
    if wrong:
        is_light = "faiss-cpu" in installed and "faiss-gpu" not in installed
        return failed("packages", ", ".join(wrong), INSTALL_LIGHT if is_light else INSTALL)
    shown = ", ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed)
    return passed("packages", f"all {len(required)} meet their bounds" + f"; {shown}" * bool(shown))


def check_torch() -> Check:
    """Import the three that must be built for each other."""
    for name in ("torch", "torchvision", "timm"):
        try:
            import_module(name)
        except Exception as error:  # whatever a mismatched binary raises
            versions = installed_versions(("torch", "torchvision"))
            return judge_mismatch(name, error, versions)
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    return passed("torch and torchvision", f"match; torch is built for {build}")


def judge_mismatch(name: str, error: Exception, versions: Mapping[str, str]) -> Check:
    """Judge that one of the three cannot be imported, most likely for another torch's build."""
    problem = f"{name} cannot be imported: {type(error).__name__}: {error}".splitlines()[0]
    found = ", ".join(f"{package} {number}" for package, number in versions.items())
    fix = INSTALL
    if versions.get("torch", "").endswith("+cpu"):
        fix = f"pip install --force-reinstall --no-deps {CPU_TORCH}"
    return failed(
        "torch and torchvision",
        f"{problem} ({found or 'not installed'})",
        f"install builds that were made for each other: {fix}",
    )


def check_faiss() -> Check:
    """Tell which build of faiss this is, and whether it sees the GPUs that torch sees."""
    try:
        import faiss
        import torch
    except ImportError as error:
        return failed("faiss", str(error), INSTALL)
    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else None
    packages = tuple(installed_versions(FAISS))
    return judge_faiss(faiss.__version__, gpus, torch.cuda.device_count(), packages)


def judge_faiss(
    version_: str, gpus: int | None, cuda_devices: int, packages: Sequence[str] = ()
) -> Check:
    """Judge faiss's build; `gpus` is None for a build without GPU code."""
    build = "CPU build" if gpus is None else f"GPU build, {gpus} GPUs"
    if len(packages) > 1:
        return warned(
            "faiss",
            f"{version_}, {build}; {' and '.join(packages)} are installed over each other",
            f"pip uninstall {' '.join(packages)}; then install one of them again",
        )
    if cuda_devices and not gpus:
        return warned(
            "faiss",
            f"{version_}, {build}, but torch has {cuda_devices}",
            "pip install faiss-gpu for this CUDA; indexes are built on the CPU meanwhile",
        )
    return passed("faiss", f"{version_}, {build}")


def check_codecs() -> Check:
    """Write, read and damage a unit with every codec, as a store does."""
    rows = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float16)
    try:
        with TemporaryDirectory() as folder:
            for codec in CODECS:
                problem = _round_trip(Path(folder), codec, rows)
                if problem:
                    return failed("codecs", f"{codec}: {problem}", INSTALL)
    except Exception as error:  # zarr's and numcodecs' own, and OSError
        return failed("codecs", f"{type(error).__name__}: {error}", INSTALL)
    return passed("codecs", f"{', '.join(CODECS)}: read back, and CRC-32C finds damage")


def _round_trip(root: Path, codec: Codec, rows: np.ndarray) -> str | None:
    array = UnitArray.create(
        LocalBackend(root),
        f"doctor/{codec}",
        shape=rows.shape,
        dtype=str(rows.dtype),
        unit_rows=len(rows),
        codec=codec,
        fingerprint="",
    )
    commit = array.publish(0, rows, "", 0)
    if codec != "bitround" and not np.array_equal(array.read(0, len(rows)), rows):
        return "other values were read than written"
    chunk = array.chunk_path(0)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    return "a damaged chunk was not noticed" if array.holds(commit) else None


def judge_optional(missing: list[str]) -> Check:
    """Tell which optional packages are not there; none of them is needed."""
    there = [name for name in OPTIONAL if name not in missing]
    found = f"installed: {', '.join(there) or 'none'}"
    if not missing:
        return passed("optional packages", found)
    wanting = ", ".join(f"{name} ({OPTIONAL[name][0]})" for name in missing)
    fix = "if wanted: " + "; ".join(OPTIONAL[name][1] for name in missing)
    return Check("optional packages", "pass", f"{found}; not installed: {wanting}", fix)
