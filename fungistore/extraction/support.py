"""The support bank of an objective of tokens, and what each token is nearest to there."""

from __future__ import annotations

from math import isqrt
from typing import Any

import faiss
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungistore.objectives.objective import Neighbors
from fungistore.randomness import Stream

ITSELF = 1 - 1e-5  # a cosine beyond it: the bank's vector is the token that asks
PROBED = 16  # lists that an IVF search looks into
MOST_COSINES = 1 << 22  # of tokens with the bank, at once
LISTS_A_ROOT = 2  # lists for each unit of the square root of the bank's size


class Support:
    """Finds each token's nearest vectors by cosine; a token in the bank is not its own neighbour.

    The centroids of an IVF search are vectors of the bank, drawn by a seed: k-means would depend
    on the number of threads.

    Args:
        bank: [n, d], on the device of the tokens.
        spec: how many neighbours, and how they are searched.
        seed: of the centroids.
    """

    def __init__(self, bank: Float[Tensor, "n d"], spec: Neighbors, seed: int) -> None:
        self._bank = bank
        self._unit = nn.functional.normalize(bank, dim=-1)
        self._count = min(spec.count, max(1, len(bank) - 1))
        self._asked = spec.count
        self._index = self._ivf(seed) if spec.search == "ivf" else None

    def nearest(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t k d"]:
        """Return each token's neighbours, the nearest first, as they are in the bank."""
        step = max(1, MOST_COSINES // len(self._bank))
        found = [self._rows(part) for part in tokens.flatten(0, 1).split(step)]
        return self._bank[torch.cat(found).unflatten(0, tokens.shape[:2])]

    def _rows(self, tokens: Float[Tensor, "t d"]) -> Tensor:
        unit, more = nn.functional.normalize(tokens, dim=-1), min(self._count + 1, len(self._bank))
        if self._index is None:
            cosines, rows = (unit @ self._unit.T).topk(more, dim=1)
        else:
            found = self._index.search(unit.cpu().numpy(), more)
            cosines, rows = (torch.from_numpy(one).to(tokens.device) for one in found)
            rows = torch.where(rows < 0, rows[:, :1], rows)  # a short list repeats its first
        skipped = (cosines[:, 0] > ITSELF).long() if more > self._count else 0 * rows[:, 0]
        places = torch.arange(self._asked, device=rows.device).clamp_max(self._count - 1)
        return rows.gather(1, places[None] + skipped[:, None])

    def _ivf(self, seed: int) -> Any:
        vectors = self._unit.cpu().numpy()
        lists = max(1, min(len(vectors), LISTS_A_ROOT * isqrt(len(vectors))))
        chosen = Stream(seed, "support", "centroids").choice(len(vectors), lists)
        dim = vectors.shape[1]
        quantizer = faiss.IndexFlatIP(dim)
        quantizer.add(vectors[chosen])
        index = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.is_trained = True
        index.add(vectors)
        index.nprobe = min(PROBED, lists)
        return index
