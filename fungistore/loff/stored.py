"""A trained head, opened again: its weights, and the rows it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote

import torch

from fungistore.errors import MismatchError, StoreError, UsageError
from fungistore.fingerprint import Config, describe, differences, fingerprint
from fungistore.loff.data import HeadData, open_head_data
from fungistore.loff.head import Head, HeadSpec
from fungistore.loff.head_folder import head_names, head_run
from fungistore.loff.heads import build_head
from fungistore.loff.loader import PatchLoader
from fungistore.store.contents import contents_in, made_anew
from fungistore.store.feature_sets import choose_feature_set
from fungistore.store.removed import left_out
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.training.checkpoint import below, load_tensors
from fungistore.training.order import Sequential


@dataclass(frozen=True)
class StoredHead:
    """A head with the weights of its best epoch.

    Attributes:
        name: of the head.
        feature_set: that it was trained on.
        head: with its weights, on the CPU.
        config: what it was trained with.
        arrays: that it reads, by feature: patches or embeddings, or embeddings beside patches.
    """

    name: str
    feature_set: str
    head: Head
    config: Config
    arrays: dict[str, UnitArray]

    @property
    def array(self) -> UnitArray:
        """The array that it takes first."""
        return self.arrays[self.head.spec.reads]

    @property
    def embeddings(self) -> UnitArray | None:
        """The array of embeddings that it takes beside patches."""
        return None if self.head.spec.embedding_dim is None else self.arrays["embeddings"]

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return list(self.config["classes"])

    @property
    def pool(self) -> int:
        """Cells of a feature map are averaged over pool x pool."""
        return int(self.config["options"]["pool"])

    @property
    def order(self) -> list[str] | None:
        """The classes from low to high, where that was given."""
        return self.config["options"].get("order")

    @property
    def metric(self) -> str:
        """That chose its best epoch."""
        return str(self.config["options"]["metric"])

    @property
    def rows_seed(self) -> int:
        """The seed of the rows that were held out."""
        options = self.config["options"]
        return int(options.get("split_seed", options["seed"]))

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products."""
        dtype: torch.dtype = getattr(torch, self.config["dtype"])
        return dtype

    @property
    def is_stale(self) -> bool:
        """Whether rows of its training were made anew since."""
        return bool(made_anew(self.arrays.values(), contents_in(self.config, self.name)))

    @property
    def fingerprint(self) -> str:
        """Of the configuration."""
        return fingerprint(self.config)

    def loader(self, rows: Rows, batch_size: int, device: torch.device) -> PatchLoader:
        """Return a loader of what it reads of ascending rows, from disk."""
        return PatchLoader(
            self.array,
            Sequential(rows),
            batch_size,
            device=device,
            cache="none",
            embeddings=self.embeddings,
        )


def find_heads(store: Store, pattern: str | None, feature_set: str | None) -> tuple[str, list[str]]:
    """Return a feature set and the names of its heads that a pattern such as "ta-*" matches.

    Args:
        store: the store.
        pattern: of names, in the shell's manner; may be left out where there is one head.
        feature_set: may be left out where there is one.

    Raises:
        UsageError: no head matches, or a choice is needed; the error lists what exists.
    """
    chosen = choose_feature_set(store, feature_set)
    names = head_names(store, chosen)
    matching = [name for name in names if pattern is None or fnmatchcase(name, pattern)]
    if not matching or (pattern is None and len(matching) > 1):
        raise UsageError(
            f"there is no head {pattern!r}" if pattern else "which head?",
            where=f"feature set {chosen!r} of {store.where}",
            expected=", ".join(names) or "none was trained yet",
            hint="name one with --head"
            if names
            else f"fungi train-loff {quote(store.where)} trains one",
        )
    return chosen, matching


def load_head(
    store: str | Path | Store, name: str | None = None, *, feature_set: str | None = None
) -> StoredHead:
    """Return a trained head: its `head` is a torch module, from stored features to logits.

    Args:
        store: the store, or its place.
        name: of the head; may be left out where there is one.
        feature_set: may be left out where there is one.

    Raises:
        UsageError: there is no such head, or it is not trained yet; the error lists what exists.
        MismatchError: the features were made anew since.
        StoreError: it is damaged.
    """
    opened = Store.open(store)
    chosen, names = find_heads(opened, name, feature_set)
    if len(names) > 1:
        raise UsageError("which head?", expected="the name of one", found=", ".join(names))
    return open_head(opened, chosen, names[0])


def open_head(store: Store, feature_set: str, name: str) -> StoredHead:
    """Open a trained head.

    Raises:
        UsageError: it is not trained yet.
        MismatchError: the features were made anew since.
        StoreError: it is damaged.
    """
    run = head_run(store, feature_set, name)
    config, progress = run.config(), run.progress()
    if config is None or progress.best_epoch is None:
        raise UsageError(
            f"the head {name!r} is not trained yet",
            where=run.folder.where(),
            hint="run the same fungi train-loff again: it continues",
        )
    spec = HeadSpec.from_config(config["head"] | {"init": "random"})
    known = store.arrays(feature_set)
    arrays = {feature: known[feature] for feature in spec.features if feature in known}
    now = {array.name: array.fingerprint for array in arrays.values()}
    if fields := differences(config["inputs"], now, common=False):
        raise MismatchError(
            "the head was trained on other features",
            where=run.folder.where(),
            expected="the features of its training",
            found=describe(fields),
            hint="train it again: fungi train-loff with --restart",
        )
    tensors = below(load_tensors(run, progress), "best.")
    try:
        head = build_head(spec, seed=0)
        head.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        found = str(error).partition("\n")[0]
        raise StoreError("a head is damaged", where=run.folder.where(), found=found) from error
    return StoredHead(name, feature_set, head.eval(), config, arrays)


def head_rows(store: Store, stored: StoredHead) -> HeadData:
    """Return the rows of a head's split again.

    Rows of its training may be gone from the source since; those to test on are left out then.

    Raises:
        MismatchError: the rows or their labels are not those of its training any more.
    """
    data = _split_again(store, stored)
    fields = differences(stored.config["rows"], data.digest(), common=False)
    if fields and len(gone := left_out(store)):
        data = _split_again(Store.open(store, keep_removed=True), stored).without(gone)
        fields = differences(stored.config["rows"], data.digest(), common=False)
    if fields:
        raise MismatchError(
            "the head was trained on other rows, so which ones may test it is not known",
            where=stored.name,
            expected="the rows of its training",
            found=describe(fields),
            hint="train it again: fungi train-loff with --restart; fungi predict needs no rows",
        )
    return data


def _split_again(store: Store, stored: StoredHead) -> HeadData:
    options = stored.config["options"]
    return open_head_data(
        store,
        stored.head.spec.reads,
        embeddings=stored.embeddings is not None,
        feature_set=stored.feature_set,
        pool=stored.pool,
        holdout=options["holdout"],
        group=options.get("group"),
        validation=options["validation"],
        seed=stored.rows_seed,
    )
