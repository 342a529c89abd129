"""Memory of one machine while it extracts, and of what comes after; and the index of it all."""

from __future__ import annotations

import re

import torch

from fungistore.extraction.loader import MOST_LOADED
from fungistore.gradients.projection import CACHE_BYTES
from fungistore.indexing.choose import (
    HNSW_LINKS,
    ID_BYTES,
    LINK_BYTES,
    choose_factory,
)
from fungistore.machine.device import default_batch_size
from fungistore.pca.stage import DEFAULT_DIM
from fungistore.planning.content import FLOAT32_BYTES, Content
from fungistore.planning.result import MemoryUse, PlannedIndex
from fungistore.quantities import counted

FLOAT64_BYTES = 8
CHANNELS = 3
HNSW_NODE_BYTES = 12  # level and offset of each vector
CODEWORDS = 256  # of each part of a product quantiser
COPIES_OF_SCATTER = 3  # scatter, covariance, eigenvectors


def memory_uses(
    content: Content, workers: int, unit_rows: int, shard_units: int, device: str
) -> list[MemoryUse]:
    """Return what a machine's memory holds, by what it is for.

    Views are drawn when they are needed: batches that wait have the pixels of one view an image,
    and as much again for each further view of an objective.
    """
    uses: list[MemoryUse] = []
    if content.parameters is not None:
        size = content.parameters * FLOAT32_BYTES * workers
        uses.append(MemoryUse("the model, in float32", size, "workers"))
    entries = content.gradient_columns * content.gradient_dim
    if entries:
        kept = next((entries * b for b in (FLOAT32_BYTES, 1) if entries * b <= CACHE_BYTES), 0)
        uses.append(MemoryUse("the projection of gradients", kept * workers, "workers"))
    if content.bank_bytes:
        uses.append(MemoryUse("banks", content.bank_bytes * workers, "workers"))
    if content.image_size is not None and content.tokens is not None:
        batch = default_batch_size(torch.device(device), content.tokens)
        pixels = CHANNELS * content.image_size**2
        said = f"{counted(MOST_LOADED, 'batch')} of {batch} that wait, one view each"
        uses.append(MemoryUse(said, MOST_LOADED * batch * pixels * workers, "machine"))
    unit = unit_rows * content.row_bytes
    said = "a unit's rows" if shard_units == 1 else "a shard's rows, which are written whole"
    uses.append(MemoryUse(said, unit * workers, "machine"))
    if content.vector_dim:
        scatter = COPIES_OF_SCATTER * content.vector_dim**2 * FLOAT64_BYTES
        uses.append(MemoryUse(f"a PCA of {content.vector_dim} values", scatter, "a later stage"))
    return uses


def planned_indexes(content: Content, images: int, memory: int) -> list[PlannedIndex]:
    """Return the indexes that would be chosen: of all vectors, and of a PCA of the usual width."""
    widths = {"all vectors": content.vector_dim, "their PCA": DEFAULT_DIM}
    found = []
    for of, dim in widths.items():
        if not content.vector_dim or (of != "all vectors" and dim >= content.vector_dim):
            continue
        choice = choose_factory(images, dim, memory)
        size = index_bytes(choice.factory, images, dim)
        found.append(PlannedIndex(of, dim, choice.factory, size, choice.reason))
    return found


def index_bytes(factory: str, count: int, dim: int) -> int:
    """Return the bytes of an index of one of the kinds that are chosen, with its ids."""
    whole = FLOAT32_BYTES * dim
    if factory == "Flat":
        return count * (whole + ID_BYTES)
    if factory.startswith("HNSW"):
        links = 2 * HNSW_LINKS * LINK_BYTES
        return count * (whole + links + HNSW_NODE_BYTES + ID_BYTES)
    lists = int(re.findall(r"IVF(\d+)", factory)[0])
    if factory.endswith("Flat"):
        return count * (whole + ID_BYTES) + lists * whole
    rotated = re.match(r"OPQ\d+_(\d+)", factory)
    width = int(rotated[1]) if rotated else dim
    parts = int(re.findall(r"PQ(\d+)$", factory)[0])
    books = (lists + CODEWORDS) * width * FLOAT32_BYTES
    rotation = width * dim * FLOAT32_BYTES if rotated else 0
    return count * (parts + ID_BYTES) + books + rotation
