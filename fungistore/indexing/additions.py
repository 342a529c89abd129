"""New vectors, block by block, with what an index has to know of them: found here, or by workers.

A worker finds lists, codes and the neighbours of the recall's queries, which is nearly all of the
work. The index is one, so the process that writes it adds them, in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from fungistore.engines.engine import Engine, Place
from fungistore.engines.pieces import Make, Pieces
from fungistore.errors import MismatchError
from fungistore.fingerprint import Config, digest_array, fingerprint
from fungistore.indexing.coding import Coder, Codes
from fungistore.indexing.record import IndexRecord, index_folder, read_record
from fungistore.indexing.reference import Near, Reference
from fungistore.indexing.rows import Available, NewBlock, NewRows
from fungistore.indexing.vectors import VectorIndex
from fungistore.machine.context import Context
from fungistore.matrices.blocks import normalize
from fungistore.quantities import counted
from fungistore.store.scratch import Scratch, Tensors
from fungistore.store.store import Store

TRAINED, QUERIES, NEW = "trained", "queries", "new"  # what workers are given


@dataclass(frozen=True)
class Found:
    """What is found of a block of new vectors before they are added.

    Attributes:
        codes: their lists and codes.
        near: those of them that are nearest to the queries of the recall.
    """

    codes: Codes
    near: Near


@dataclass(frozen=True)
class Workers:
    """The new vectors of an index, divided among the workers of an engine.

    Attributes:
        record: of the index, which is trained.
        new: rows to add.
        coder: of the index.
        reference: the queries of its recall.
    """

    record: IndexRecord
    new: NewRows
    coder: Coder
    reference: Reference

    @cached_property
    def pieces(self) -> Pieces:
        """What the engine divides: a piece for each block of new rows."""
        record = self.record
        return Pieces(
            f"index-{self._key}",
            len(self.new.blocks()),
            "blocks of rows",
            f"{__name__}:{open_additions.__name__}",
            {"feature_set": record.feature_set, "index": record.name},
        )

    def found(self, engine: Engine, context: Context) -> Iterator[tuple[NewBlock, Found]]:
        """Let the engine find what is not there yet, and yield all blocks in order.

        Raises:
            MismatchError: the rows are others than those that a worker has read.
            StoppedError: `context` asked for it; what was found is kept.
        """
        new, matrix = self.new, self.new.available.matrix
        queries: Tensors = {"rows": self.reference.rows, "vectors": self.reference.vectors}
        rows = {"counts": new.available.counts, "done": new.done, "gone": new.gone}
        given: list[tuple[str, Tensors]] = [
            (TRAINED, {TRAINED: self._trained}),
            (QUERIES, queries),
            (NEW, rows),
        ]
        made = self.pieces.made(engine, matrix.store, context, given)
        for stretch, tensors in zip(new.blocks(), made, strict=True):
            block = NewBlock(
                stretch,
                int(tensors["considered"]),
                tensors["rows"],
                np.zeros((0, matrix.dim), np.float32),
                tensors["removed"],
            )
            codes = tensors["codes"]
            if self.coder.keeps_vectors:
                block = self._read_again(block)
                codes = self.coder.whole(codes, block.vectors)
            yield block, Found(codes, Near(tensors["near"], tensors["distances"]))

    def remove(self) -> None:
        """Remove what the workers left."""
        self.pieces.scratch(self.new.available.matrix.store).remove()

    def _read_again(self, block: NewBlock) -> NewBlock:
        """Return a block with its vectors, which no worker leaves twice in the store."""
        again = self.new.read(block.stretch)
        if not np.array_equal(again.rows, block.rows):
            raise MismatchError(
                "a worker has read other rows: the store has changed since",
                where=self.new.available.matrix.store.where,
                expected=counted(len(again.rows), "usable row"),
                found=counted(len(block.rows), "usable row"),
                hint="run the same command again",
            )
        if self.record.metric == "cosine":
            normalize(again.vectors)
        return again

    @cached_property
    def _trained(self) -> Codes:
        return self.coder.trained()

    @property
    def _key(self) -> str:
        """Return what is equal for runs that find the same in the same blocks."""
        record, new = self.record, self.new
        contents = new.available.contents(new.available.counts)
        blocks = [(stretch.start, stretch.stop) for stretch in new.blocks()]
        return fingerprint(
            {
                "index": [record.feature_set, record.name, record.metric],
                "trained": digest_array(self._trained),
                "inputs": dict(record.fingerprints),
                "contents": {name: asdict(one) for name, one in contents.items()},
                "queries": digest_array(self.reference.rows),
                "done": digest_array(new.done),
                "counts": digest_array(new.available.counts),
                "gone": digest_array(new.gone),
                "blocks": digest_array(np.array(blocks, np.int64)),
            }
        )


def open_additions(
    store: Store, arguments: Config, scratch: Scratch, place: Place, context: Context
) -> Make:
    """Open features and a trained index in a worker, and return what finds a block's codes.

    Raises:
        MismatchError: the features are others now.
    """
    record = read_record(index_folder(store, arguments["feature_set"], arguments["index"]))
    assert record is not None  # it is written before work is divided
    matrix, given = record.matrix(store), scratch.read(NEW)
    new = NewRows(Available(matrix, {}, given["counts"]), given["done"], given["gone"])
    trained = scratch.read(TRAINED)[TRAINED]
    vectors = VectorIndex.untied(trained, record.metric, place.device)
    reference, coder, blocks = Reference.of(**scratch.read(QUERIES)), vectors.coder, new.blocks()
    assert coder is not None

    def make(number: int) -> Tensors:
        block = new.read(blocks[number])
        near = reference.near(block.vectors, block.rows, record.metric)
        codes = vectors.codes(coder, block.vectors)
        return {
            "considered": np.array(block.considered),
            "rows": block.rows,
            "removed": block.removed,
            "codes": codes[:, : coder.list_bytes] if coder.keeps_vectors else codes,
            "near": near.rows,
            "distances": near.distances,
        }

    return make
