"""CLIP both ways: image sides as encoders, texts that search and classify; oracle: open_clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save as save_arrays

import fungistore as fungi
from fungistore.backbones.families import find_family, load_backbone
from fungistore.backbones.open_clip.encoder import OpenClipImages
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation.zero_shot import class_texts, read_templates
from fungistore.fingerprint import hash_ids
from fungistore.gradients.path import gradient_path
from fungistore.randomness import Stream
from fungistore.store.documents import encode_document
from tiny_world import write_images

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8}
CONFIG = {"embed_dim": 12, "vision_cfg": VISION, "text_cfg": TEXT}
MODEL = "open_clip:tiny-clip"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a model so small that open_clip does not have it."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    return save(folder / "weights.pt", seed=0)


def save(path: Path, seed: int) -> Path:
    """Save the tiny model with some random weights."""
    torch.manual_seed(seed)
    model = open_clip.model.CLIP(12, dict(VISION), dict(TEXT))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def theirs(weights: Path) -> Any:
    """The model as open_clip itself loads it."""
    return open_clip.create_model("tiny-clip", pretrained=str(weights)).eval()


@pytest.fixture(scope="module")
def store(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the tiny model's embeddings, of two classes, with an index."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(("001.torn_thread", "clean weave")):
        write_images(folder / "photos" / name, 6, seed)
    options = fungi.ExtractOptions(
        model=MODEL, weights=str(weights), dtype="float32", features=("embeddings", "kl")
    )
    fungi.extract(folder / "photos", folder / "s.fungi", options)
    fungi.build_index(folder / "s.fungi", fungi.IndexOptions(features=("embeddings",)))
    return folder / "s.fungi"


def embeddings_of(store: Path) -> NDArray[np.float32]:
    """The stored embeddings, of length 1."""
    return fungi.open_features(store, ["embeddings"]).load()[1]


def images(weights: Path) -> OpenClipImages:
    """The image side."""
    encoder = load_backbone(MODEL, weights=weights)
    assert isinstance(encoder, OpenClipImages)
    return encoder


def test_an_embedding_is_that_of_open_clip(weights: Path, theirs: Any) -> None:
    """From the file on: its transform, its forward, and its tokens in their places."""
    encoder = images(weights)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    drawn = tuple(torch.from_numpy(a)[None] for a in encoder.base_view.draw(pixels, Stream(0)))
    (view,) = (one[:, 0] for one in encoder.base_view.render(drawn, 0, slice(0, 1)))
    transform = open_clip.image_transform(32, is_train=False)
    assert torch.equal(view, transform(Image.fromarray(pixels))[None])
    with torch.no_grad():
        encoded = encoder.run((view,))
        assert torch.allclose(encoded.embeddings, theirs.encode_image(view), atol=1e-5)
        assert encoded.grid is not None
        maps = theirs.visual.forward_intermediates(view, indices=1, normalize_intermediates=True)
        theirs_grid = maps["image_intermediates"][0].permute(0, 2, 3, 1)
        assert torch.allclose(encoded.grid.tokens, theirs_grid, atol=1e-5)


def test_a_gradient_is_that_of_autograd(weights: Path, theirs: Any) -> None:
    """The last attention's output projection, which torch's fused attention hides."""
    view = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    path = gradient_path(images(weights))
    tape = path.record([(view[:, None],)])
    losses = tape.embeddings.square().sum(dim=(1, 2))
    ours = tape.gradients(losses)
    layer = theirs.visual.transformer.resblocks[-1].attn.out_proj
    for sample, one in enumerate(view):
        theirs.zero_grad()
        with torch.enable_grad():
            theirs.requires_grad_(True)
            theirs.encode_image(one[None]).square().sum().backward()
        found = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1)
        assert torch.allclose(ours[sample], found, rtol=1e-3, atol=1e-5)


def test_a_text_finds_what_open_clip_finds(store: Path, weights: Path, theirs: Any) -> None:
    """Distances and order, by the model and the weights that the store remembers."""
    texts = ["a torn thread", "a clean weave"]
    done = fungi.search(store, (), fungi.SearchOptions(k=12), texts=texts)
    tokens = open_clip.get_tokenizer("tiny-clip")(texts)
    with torch.no_grad():
        vectors = theirs.encode_text(tokens, normalize=True).numpy()
    cosines = embeddings_of(store) @ vectors.T
    for number, answer in enumerate(done.answers):
        assert (answer.kind, answer.query, answer.sample) == ("text", texts[number], None)
        found = [one.sample.row for one in answer.neighbours]
        assert np.allclose(cosines[found, number], np.sort(cosines[:, number])[::-1], atol=1e-5)
        assert np.allclose(
            [one.distance for one in answer.neighbours], 1 - cosines[found, number], atol=1e-5
        )


def test_texts_and_images_are_asked_together(store: Path, tmp_path: Path) -> None:
    """Each in its place; the page shows a text as text."""
    one = fungi.Store.open(store).samples.rows(0, 1)[0]["id"]
    done = fungi.search(store, [one], texts=["a <b>"])
    assert [answer.kind for answer in done.answers] == ["sample", "text"]
    fungi.write_page(tmp_path / "page.html", done)
    assert "a &lt;b&gt;" in (tmp_path / "page.html").read_text()


def test_a_text_side_of_other_weights_is_refused(store: Path, tmp_path: Path) -> None:
    """They would find anything at all: a few images tell."""
    other = save(tmp_path / "other.pt", seed=1)
    options = fungi.SearchOptions(text_weights=str(other))
    with pytest.raises(MismatchError, match="another model"):
        fungi.search(store, (), options, texts=["a dog"])


def test_what_has_no_text_side_is_refused(store: Path, tmp_path: Path) -> None:
    """An index of gradients, imported vectors of another model, a model without texts."""
    fungi.build_index(store, fungi.IndexOptions(features=("embeddings", "kl"), name="both"))
    with pytest.raises(UsageError, match="embeddings alone"):
        fungi.search(store, (), fungi.SearchOptions(index="both"), texts="a dog")
    options = fungi.ZeroShotOptions(text_model="vit_base_patch16_clip_224.openai")
    with pytest.raises(UsageError, match="no text side"):
        fungi.evaluate_zero_shot(store, options)
    np.save(tmp_path / "x.npy", np.eye(12, dtype=np.float32))
    fungi.import_features([tmp_path / "x.npy"], tmp_path / "i.fungi")
    fungi.build_index(tmp_path / "i.fungi")
    with pytest.raises(UsageError, match="imported"):
        fungi.search(tmp_path / "i.fungi", (), texts="a dog")


@pytest.mark.parametrize("templates", [("a photo of a {}.",), ("imagenet", "the {}")])
def test_zero_shot_is_open_clips(store: Path, theirs: Any, templates: tuple[str, ...]) -> None:
    """Against the classifier that open_clip builds of the same names and templates."""
    done = fungi.evaluate_zero_shot(store, fungi.ZeroShotOptions(templates=templates))
    names = ["torn thread", "clean weave"]
    assert done.protocol["classes"] == names
    sentences = [lambda name, t=t: t.replace("{}", name) for t in read_templates(templates)]
    classifier = open_clip.build_zero_shot_classifier(
        theirs, open_clip.get_tokenizer("tiny-clip"), names, sentences, use_tqdm=False
    )
    predicted = (embeddings_of(store) @ classifier.numpy()).argmax(axis=1)
    truth = fungi.Store.open(store).samples.labels()
    assert done.scores[0].metrics["accuracy"] == pytest.approx((predicted == truth).mean())
    assert done.scores[0].n_test == 12


def test_rows_that_the_image_side_was_adapted_on_are_not_classified(
    store: Path, tmp_path: Path
) -> None:
    """An image side that timm has may be one that fungi adapt has trained a little."""
    opened = fungi.Store.open(shutil.copytree(store, tmp_path / "s.fungi"))
    key = fungi.open_features(opened, ["embeddings"]).arrays[0].fingerprint
    config, folder = opened.setups.config(key), opened.setups.folder(key)
    adapted = config | {"backbone": config["backbone"] | {"adapter": {"method": "lora"}}}
    folder.publish("config.json", encode_document(adapted))
    hashes = np.sort(hash_ids(list(opened.samples.ids())[:3]))
    folder.publish("seen.safetensors", save_arrays({"rows": hashes}))
    with pytest.raises(UsageError, match="adapted on 3 of the 12 test rows"):
        fungi.evaluate_zero_shot(opened.root, fungi.ZeroShotOptions())


def test_templates_and_names_are_read_from_files(tmp_path: Path) -> None:
    """Blank lines and a mark at the start are no sentences; a class without a name is named."""
    (tmp_path / "t.txt").write_bytes("\ufeffa {}\n\n the {} \r\n".encode())
    assert read_templates([str(tmp_path / "t.txt"), "a {}"]) == ("a {}", "the {}")
    assert len(read_templates(["imagenet"])) == 80
    with pytest.raises(UsageError, match="no place"):
        read_templates(["a photo"])
    (tmp_path / "n.csv").write_text('n01, "crane, bird"\nn02,crane machine\n')
    assert class_texts(["n02", "n01"], tmp_path / "n.csv") == ["crane machine", "crane, bird"]
    with pytest.raises(UsageError, match="n03"):
        class_texts(["n03"], tmp_path / "n.csv")
    assert class_texts(["001.Black_footed_Albatross", "7"], None) == ["Black footed Albatross", "7"]


def test_wrong_names_are_answered_with_right_ones(weights: Path) -> None:
    """An unknown architecture, an unknown tag, no tag at all, and another model's file."""
    for name, words in {
        "open_clip:ViT-B-23/openai": "ViT-B-32",
        "open_clip:ViT-B-32/openia": "laion2b_s34b_b79k",
        "open_clip:ViT-B-32": "no tag",
    }.items():
        with pytest.raises(UsageError, match=words):
            load_backbone(name)
    with pytest.raises(UsageError, match="not the model's"):
        load_backbone("open_clip:RN50", weights=weights)


def test_timms_image_sides_have_their_text_sides() -> None:
    """By the repository that has both; another model has none."""
    family: Any = find_family("open_clip")
    assert family.joint_name("timm", "vit_base_patch16_clip_224.openai") == "ViT-B-16/openai"
    assert family.joint_name("timm", "vit_small_patch14_dinov2.lvd142m") is None
    assert "ViT-B-32/openai" in family.find("ViT-B-32/open*")
