"""Shared fixtures: a tiny real model with weights in a file, and folders of real images.

The model side runs under jaxtyping and beartype here, so a wrong shape or dtype fails a test.
"""

from __future__ import annotations

import functools
import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import setuptools  # noqa: F401 - before anything imports the distutils that it replaces

# "auto" is the CPU here, whose bits the tests compare; FUNGI_TEST_GPU=1 is for those that need one.
if not os.environ.get("FUNGI_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import hypothesis
import torch
import typer.testing
from jaxtyping import install_import_hook

from rewriting import rewrite_ahead
from tiny_world import TINY, write_images

# Tests run side by side, and their models are tiny: threads that wait for a core cost minutes.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that they start
# A runner of command lines makes all commands anew for each, in 30 ms: the same ones do.
vars(typer.testing)["_get_command"] = functools.cache(typer.main.get_command)
# An example is no slower than the machine is busy: a deadline fails on a loaded one.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")
# No test cuts the power: what is flushed, and when, is seen by those that watch the calls.
os.fsync = lambda descriptor: os.fstat(descriptor) and None

VIEWS = ("inference", "crops", "changed", "colours", "patchify", "resample", "pixels", "recipes")

install_import_hook(
    ["fungistore.gradients", "fungistore.objectives", "fungistore.modalities.views"]
    + [f"fungistore.modalities.image.{name}" for name in VIEWS],
    "beartype.beartype",
)


# Files that take longest, in the order in which they begin: none is alone at the end.
LONG = ("test_ray.py", "docs/test_pages.py", "docs/test_examples.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    rewrite_ahead(config)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays: to look for garbage in it takes a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # else libraries tell at the end that objects of theirs are left


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))


@pytest.fixture(autouse=True)
def no_debug_left() -> Iterator[None]:
    """`fungi --debug` sets a variable of its process, which here is that of all tests."""
    yield
    os.environ.pop("FUNGI_DEBUG", None)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work on a fake GPU, with stand-ins for what of torch needs a real one."""
    from fake_gpu import FakeGpu, moved, no_gradients

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    monkeypatch.setattr(torch.autograd, "grad", no_gradients)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with FakeGpu(allow_non_fake_inputs=True):
        yield


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny model, random but with non-trivial norms and biases."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(TINY, pretrained=False, num_classes=0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def same_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, 12 images each, which no test changes."""
    root = tmp_path_factory.mktemp("same") / "images"
    write_images(root / "cat", 12, seed=1)
    write_images(root / "dog", 12, seed=2)
    return root


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is read from URLs is kept in a folder of the test's own."""
    from fungistore.remote.cache_options import DIRECTORY, SIZE

    monkeypatch.setenv(DIRECTORY, str(tmp_path / "cache"))
    monkeypatch.delenv(SIZE, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def images(same_images: Path, tmp_path: Path) -> Path:
    """The same, of the test alone."""
    return Path(shutil.copytree(same_images, tmp_path / "images"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs needs privileges")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # a leftover handle is no fault
