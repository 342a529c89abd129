"""A trained adapter on the disk, as `fungi adapt` writes it, read back.

<adaptation>/                  adaptations/<name> in a store, or a folder anywhere
    config.json                the adapter, the model that it was made for, the rows it was shown
    state.json                 how far its training is, and the name of the file below
    state-<epoch>-<step>.safetensors   of the best epoch: `best.backbone.*`, `best.classifier.*`
    seen.npy                   of each row that it was trained or chosen on, hashes of its id and
                               of its image's bytes
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fungistore.backbones.adapters.registry import ADAPTERS
from fungistore.errors import MismatchError, StoreError, UsageError
from fungistore.fingerprint import Config, describe, digest_bytes, hash_ids
from fungistore.names import is_file_name
from fungistore.quantities import counted
from fungistore.settings import build, to_json
from fungistore.store.backend import open_backend
from fungistore.store.disk_errors import damage_explained
from fungistore.store.documents import read_document, seal_is_broken
from fungistore.store.folder import Folder
from fungistore.store.item_digests import UNKNOWN, Digests

if TYPE_CHECKING:
    from torch import Tensor

    from fungistore.backbones.adapters.adapter import Adapter

ADAPTATIONS = "adaptations"  # in a store
CONFIG, STATE, SEEN = "config.json", "state.json", "seen.npy"
TABLES = ("adapter", "backbone", "rows")  # of the configuration, that is read here
BACKBONE, CLASSIFIER = "backbone.", "classifier."  # of tensors' names, in a state below "best."
BASE_FIELDS = ("family", "model", "weights")  # of an encoder's identity: what tensors fit to
DAMAGED = "an adaptation is damaged"


@dataclass(frozen=True)
class Adaptation:
    """A trained adapter.

    Attributes:
        name: of its folder.
        where: that is, for messages.
        adapter: how it was trained.
        tensors: of its best epoch, by their names in the adapted model.
        classifier: the linear classifier on the embedding: `weight` [c, e], `bias` [c].
        classes: their names.
        base: identity of the encoder that it was made for.
        config: all that it was made with.
        seen: hashes of the ids of all rows that it was trained or chosen on, ascending [n].
        images: digests of their images' bytes, in the same order [n]; UNKNOWN of an older one's.
        is_done: whether its training has ended.
    """

    name: str
    where: str
    adapter: Adapter
    tensors: Mapping[str, Tensor]
    classifier: Mapping[str, Tensor]
    classes: tuple[str, ...]
    base: Config
    config: Config
    seen: NDArray[np.uint64]
    images: Digests
    is_done: bool

    def __str__(self) -> str:
        """Its name."""
        return self.name

    @cached_property
    def digest(self) -> str:
        """Of the tensors."""
        from fungistore.backbones.timm_vit.weights import digest_weights

        return digest_weights(self.tensors)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user of it should know, in words."""
        if self.is_done:
            return ()
        return (
            f"warning: the training of the adaptation {self.name!r} has not ended; its best epoch "
            "so far is used, and features of it will not go with a later one",
        )

    def identity(self) -> Config:
        """Return what decides an adapted encoder's outputs beside the encoder's own identity."""
        return adapter_config(self.adapter) | {"digest": self.digest}

    def refuse_other_base(self, identity: Config) -> None:
        """Refuse an encoder that it was not made for.

        Raises:
            MismatchError: its weights, or its architecture, are others.
        """
        pairs = {f: (self.base.get(f), identity.get(f)) for f in BASE_FIELDS}
        fields = {f: pair for f, pair in pairs.items() if pair[0] != pair[1]}
        if fields:
            raise MismatchError(
                "the adaptation was made for other weights",
                where=f"--adapter {self.name}",
                expected="the model and the weights that fungi adapt was given",
                found=describe(fields),
                hint="the same --model and --weights; or adapt these: fungi adapt",
            )

    def apply(self, model: Any, *, image_size: int) -> None:
        """Give a model what was trained, in place, merged where that is exact, and freeze it.

        Args:
            model: timm's, in its own weights.
            image_size: of the model's input.

        Raises:
            MismatchError: position embeddings were trained at another size.
            StoreError: the tensors are not those of the adapter.
        """
        from fungistore.backbones.adapters.adapter import load_trained

        self.adapter.attach(model, seed=0)
        try:
            load_trained(model, self.tensors)
        except ValueError as error:
            if self.base.get("image_size") != image_size:
                raise MismatchError(
                    "the adaptation has weights that depend on the image size",
                    where=f"--adapter {self.name}",
                    expected=f"images of {self.base.get('image_size')} pixels",
                    found=image_size,
                    hint=f"--image-size {self.base.get('image_size')}",
                ) from error
            raise StoreError(DAMAGED, where=self.where, found=error) from error
        self.adapter.merge(model)
        model.eval().requires_grad_(False)


def adapter_config(adapter: Any) -> Config:
    """Return an adapter as a configuration has it: its method and settings."""
    return {"method": adapter.name, "settings": to_json(adapter)}


def adapter_of(config: Mapping[str, Any], where: object) -> Adapter:
    """Return the adapter that a configuration has.

    Raises:
        UsageError: it is of a plug-in that is not here, or has unusable settings.
    """
    kind = ADAPTERS.choose(str(config["method"]), where)
    adapter: Adapter = build(kind, config["settings"], kind.name)
    return adapter


def publish_seen(folder: Folder, ids: Iterable[str], images: Digests) -> str:
    """Write which rows an adaptation is shown; returns the digest, `rows.seen` of its config.

    Args:
        folder: of the adaptation; its configuration comes after.
        ids: of all rows of training and validation.
        images: digests of their images' bytes, in the same order.
    """
    hashes = hash_ids(ids)
    order = np.argsort(hashes)
    buffer = io.BytesIO()
    np.save(buffer, np.stack([hashes[order], images[order]]))
    folder.publish(SEEN, buffer.getvalue())
    return digest_bytes(buffer.getvalue())


def read_adaptation(place: Folder | str | Path) -> Adaptation:
    """Read an adaptation, with the weights of its best epoch.

    Args:
        place: its folder in a store, or any folder.

    Raises:
        UsageError: there is none, it is not trained yet, or its method is not known here.
        StoreError: it is damaged.
    """
    folder = place if isinstance(place, Folder) else Folder(open_backend(place))
    where = folder.where()
    name = folder.name or Path(where).name
    if not folder.has(CONFIG):
        raise UsageError(
            "there is no adaptation",
            where=where,
            expected=f"a folder with {CONFIG}, as fungi adapt writes it",
            hint="fungi adapt SOURCE STORE --name NAME makes one",
        )
    config = read_document(folder, CONFIG, DAMAGED)
    for table in TABLES:
        if not isinstance(config.get(table), dict):
            raise StoreError(DAMAGED, where=folder.where(CONFIG), found=f"{table} is no table")
    tensors, is_done = _best_tensors(folder, name)
    seen, images = read_seen(folder, config)
    with damage_explained(DAMAGED, folder.where(CONFIG)):
        adapter = adapter_of(config["adapter"], folder.where(CONFIG))
        classes = tuple(map(str, config["classes"]))
    return Adaptation(
        name=name,
        where=where,
        adapter=adapter,
        tensors=_below(tensors, BACKBONE),
        classifier=_below(tensors, CLASSIFIER),
        classes=classes,
        base=config["backbone"],
        config=config,
        seen=seen,
        images=images,
        is_done=is_done,
    )


def adaptation_names(store: Folder) -> list[str]:
    """Return the names of the adaptations of a store, given its own folder."""
    return [one.name for one in store.at(ADAPTATIONS).below() if one.has(CONFIG)]


def _best_tensors(folder: Folder, name: str) -> tuple[dict[str, Tensor], bool]:
    """Return the weights of the best epoch so far, and whether it is the last word."""
    state: Config = {}
    if folder.has(STATE):
        state = read_document(folder, STATE, DAMAGED)
        if seal_is_broken(state):
            raise StoreError(DAMAGED, where=folder.where(STATE), found="edited fields")
    if state.get("best_epoch") is None:
        raise UsageError(
            f"the adaptation {name!r} is not trained yet",
            where=folder.where(),
            expected="an epoch that was validated",
            found=counted(int(state.get("step", 0)), "step"),
            hint="run the same fungi adapt again: it continues",
        )
    from safetensors.torch import load_file  # imports torch, which fungi verify does without

    file = str(state["file"])
    with damage_explained("the weights of an adaptation are damaged", folder.where(file)):
        if not is_file_name(file):
            raise ValueError(f"weights at {file!r}, which is not beside the state")
        if state["checksums"][CONFIG] != (found := folder.digest(CONFIG)):
            raise ValueError(f"{CONFIG} has the checksum {found}, not that of {STATE}")
        path = folder.local_path(file)
        path.open("rb").close()  # safetensors takes all that it cannot open for missing
        return _below(load_file(path), "best."), bool(state["done"])


def read_seen(folder: Folder, config: Config) -> tuple[NDArray[np.uint64], Digests]:
    """Return hashes of the ids of all rows that an adaptation has seen, and of their images.

    Raises:
        StoreError: they are missing or damaged.
    """
    with damage_explained(DAMAGED, folder.where(SEEN)):
        data = folder.read(SEEN)
        if digest_bytes(data) != config["rows"].get("seen"):
            raise ValueError(f"another digest than {CONFIG} has")
        table: NDArray[np.uint64] = np.load(io.BytesIO(data), allow_pickle=False)
        if table.ndim == 1:  # of an earlier version, which kept ids alone
            return table, np.full(len(table), UNKNOWN, np.uint64)
        return table[0], table[1]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
