"""From a bank's neighbours to the labels of tokens, and from these to the classes of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fungistore.segmentation import predict
from fungistore.segmentation.predict import attend, label_maps, largest_class


@dataclass
class ToyBank:
    """A bank in memory, with an index that sees a part of it."""

    vectors: NDArray[np.float32]
    counts: NDArray[np.uint16]
    seen: int

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.counts.shape[1])))

    def search(self, queries, k):
        cosines = queries @ self.vectors[: self.seen].T
        ids = np.argsort(-cosines, axis=1)[:, :k]
        missing = ((0, 0), (0, k - ids.shape[1]))
        found = np.take_along_axis(cosines, ids, 1)
        return np.pad(found, missing), np.pad(ids, missing, constant_values=-1)


def toy_bank(seed: int, patches: int = 40, classes: int = 5, seen: int = 40) -> ToyBank:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(patches, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return ToyBank(vectors, random.integers(0, 9, (patches, classes)).astype(np.uint16) + 1, seen)


def test_cross_attention_gives_the_reference_numbers() -> None:
    """Queries (1,0) and (0,2), keys and labels as FUNGI's reference code was run on, beta 0.1."""
    queries = np.array([[1, 0], [0, 1]], np.float32)
    keys = np.array([[[1, 0], [1, 1]], [[0, 1], [1, 1]]], np.float32)
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    labels = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0.5, 0.5, 0]]], np.float32)
    found = attend(np.einsum("qd,qkd->qk", queries, keys), labels, 0.1)
    expected = [[0.949258, 0.050742, 0], [0.025371, 0.025371, 0.949258]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("seen", [40, 3, 0])
def test_maps_are_those_of_each_token_alone(seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens and images go together; neighbours that were not found weigh nothing."""
    bank, random = toy_bank(0, seen=seen), np.random.default_rng(1)
    tokens = random.normal(size=(3, 2, 4, 6)).astype(np.float32)
    tokens /= np.linalg.norm(tokens, axis=3, keepdims=True)
    monkeypatch.setattr(predict, "GATHERED_BYTES", 4 * 5 * 5 * 3)
    monkeypatch.setattr(predict, "TOKENS", 16)
    maps = list(label_maps(bank, tokens, 5, 0.1))  # type: ignore[arg-type]
    assert [one.shape for one in maps] == [(2, 4, 5)] * 3
    for image, said in zip(tokens, maps, strict=True):
        for token, shares in zip(image.reshape(-1, 6), said.reshape(-1, 5), strict=True):
            cosines = (bank.vectors[:seen] @ token).astype(np.float64)
            near = np.argsort(-cosines)[:5]
            weights = np.exp(cosines[near] / 0.1)
            labels = bank.counts[near] / bank.counts[near].sum(1, keepdims=True)
            expected = weights @ labels / weights.sum() if seen else np.zeros(5)
            np.testing.assert_allclose(shares, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("grid", "size"), [((4, 4), (33, 50)), ((5, 3), (4, 2)), ((1, 1), (3, 3)), ((6, 7), (6, 7))]
)
def test_pixels_take_the_class_that_pytorch_interpolates(
    grid: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bands of a few rows as in one, with classes that no token has among them."""
    shares = np.random.default_rng(2).random((*grid, 7)).astype(np.float32)
    shares[..., [0, 3]] = 0
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(shares).permute(2, 0, 1)[None], size=size, mode="bilinear"
    )
    expected = whole[0].argmax(0).numpy()
    np.testing.assert_array_equal(largest_class(shares, *size), expected)
    monkeypatch.setattr(predict, "BAND_BYTES", 4 * 5 * size[1] * 3)
    np.testing.assert_array_equal(largest_class(shares, *size), expected)


def test_ties_go_to_the_first_class() -> None:
    """Of tokens that are all alike, and of those without any label."""
    shares = np.zeros((2, 2, 4), np.float32)
    assert (largest_class(shares, 3, 3) == 0).all()
    shares[..., 2] = 1
    assert (largest_class(shares, 3, 3) == 2).all()
    shares[..., 1] = 1
    assert (largest_class(shares, 3, 3) == 1).all()
