"""The text side that goes with a store's embeddings, and the proof that it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.backbones.families import FAMILIES, find_family, split_model
from fungistore.backbones.joint import JointEncoder, JointFamily, TextTower
from fungistore.errors import ItemError, MismatchError, UsageError
from fungistore.fingerprint import Config
from fungistore.joint.options import TextChoice
from fungistore.machine.context import Context
from fungistore.machine.device import resolve_device
from fungistore.matrices.blocks import FeatureMatrix, normalize, open_features
from fungistore.modalities.reading import read_item
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.store.feature import EMBEDDINGS
from fungistore.store.setups import OPTIONS
from fungistore.store.store import Store

COMPARED = 3  # images that are embedded once more
TRIED = 20  # rows that are looked at for them: some images may be gone
ALIKE = 0.99  # their least cosine: eight bits of a trunk cost less, another model gives 0.5


@dataclass(frozen=True)
class TextSpace:
    """Texts as vectors that can be compared with a store's embeddings.

    Attributes:
        matrix: the embeddings.
        tower: the text side, on its device.
        name: of the joint encoder.
    """

    matrix: FeatureMatrix
    tower: TextTower
    name: str

    def vectors(self, texts: Sequence[str], context: Context) -> NDArray[np.float32]:
        """Return the embeddings [n, e] of some texts, of length 1."""
        if cut := self.tower.count_cut(texts):
            said = counted(cut, "text is", "texts are")
            context.reporter.notice(f"{said} as long as the model reads, or longer, and then cut")
        found: NDArray[np.float32] = self.tower.encode(texts).cpu().numpy()
        normalize(found)
        return found

    def identity(self) -> Config:
        """Return what decides the vectors, JSON-ready."""
        return self.tower.identity()


def open_space(
    store: Store, feature_set: str | None, choice: TextChoice, context: Context
) -> TextSpace:
    """Load the text side that goes with a feature set's embeddings.

    A few images of the store are embedded by the image side once more, and must come out as they
    are stored: so texts never meet the embeddings of another model, or of other weights.

    Args:
        store: the store.
        feature_set: name of the feature set; may be left out where there is one.
        choice: which text side, if it is not plain.
        context: its reporter is told what is loaded.

    Raises:
        UsageError: there are no embeddings, or no text side is known of their model, or it or its
            weights cannot be used.
        MismatchError: it is another model's.
        FungiError: its weights could not be had.
    """
    matrix = open_features(store, [EMBEDDINGS], feature_set=feature_set)
    name, weights = _chosen(matrix, choice)
    context.reporter.notice(f"loading {name}")
    family, own = split_model(name)
    families = _joint_families()
    if family not in families:
        raise UsageError(
            "the model has no text side",
            where=f"--text-model {name}",
            expected=f"a joint encoder: {' or '.join(f'{one}:NAME' for one in families)}",
        )
    joint = families[family].load_joint(own, weights=weights)
    _refuse_other_model(matrix, joint, context)
    device = resolve_device(choice.device)
    return TextSpace(matrix, joint.texts.on(device), joint.name)


def _joint_families() -> dict[str, JointFamily]:
    families = {name: find_family(name) for name in FAMILIES}
    return {name: one for name, one in families.items() if isinstance(one, JointFamily)}


def _chosen(matrix: FeatureMatrix, choice: TextChoice) -> tuple[str, Path | None]:
    """Return the joint encoder's name and its file of weights, if any."""
    weights = None if choice.text_weights is None else Path(choice.text_weights)
    if choice.text_model is not None:
        return choice.text_model, weights
    setups, key = matrix.store.setups, matrix.arrays[0].fingerprint
    made: dict[str, Any] = {}
    if setups.folder(key).has(OPTIONS):
        made = setups.document(key, OPTIONS)
    model = str(made.get("model") or "")
    if model:
        family, own = split_model(model)
        if family in _joint_families():
            stored = made.get("weights")
            return model, weights or (Path(str(stored)) if stored else None)
        for other, joint in _joint_families().items():
            if name := joint.joint_name(family, own):
                return f"{other}:{name}", weights
    raise UsageError(
        "no text side is known of the model that made the embeddings",
        where=f"feature set {matrix.feature_set!r} of {matrix.store.where}, which has "
        f"{matrix.store.modality.items}",
        expected="embeddings of an image side of CLIP or of its kind",
        found=model or "embeddings that were imported",
        hint="--text-model open_clip:ARCHITECTURE/TAG names it; `fungi models open_clip:` lists "
        "them",
    )


def _refuse_other_model(matrix: FeatureMatrix, joint: JointEncoder, context: Context) -> None:
    """Embed a few of the store's images once more, and compare."""
    width = joint.images.embedding_dim
    if width != matrix.dim:
        raise MismatchError(
            "the text side is of another model than the embeddings",
            where=f"--text-model {joint.name}",
            expected=f"a joint space of {matrix.dim} numbers, as {matrix.feature_set} has",
            found=width,
        )
    cosines = []
    for row, image in _readable(matrix):
        stored = matrix.read(row, row + 1)[0]
        found = _embedded(joint, image)
        cosines.append(float(stored @ found))
        if len(cosines) == COMPARED:
            break
    if not cosines:
        context.reporter.notice(
            f"no image of the store can be read, so nobody knows whether {joint.name} made its "
            "embeddings"
        )
    elif min(cosines) < ALIKE:
        raise MismatchError(
            "the text side is of another model than the embeddings",
            where=f"--text-model {joint.name}",
            expected=f"its image side gives the embeddings of {matrix.feature_set}: a cosine of "
            f"{ALIKE} or more",
            found=f"a cosine of {min(cosines):.3f} for an image of the store",
            hint="--text-model and --text-weights name the model and the weights that made them",
        )


def _readable(matrix: FeatureMatrix) -> Iterator[tuple[int, Any]]:
    """Yield rows with usable embeddings whose images can be read, and these."""
    store = matrix.store
    usable = np.flatnonzero(matrix.coverage().usable)
    spread = usable[np.linspace(0, len(usable) - 1, min(TRIED, len(usable)), dtype=np.int64)]
    for sample in store.samples.take(np.unique(spread)) if len(usable) else ():
        try:
            item = read_item(store.modality, sample["root"], sample["uri"])
        except ItemError:
            continue
        yield sample["row"], item


def _embedded(joint: JointEncoder, item: Any) -> NDArray[np.float32]:
    """Return the embedding of an image, of length 1."""
    view = joint.images.base_view
    drawn = tuple(torch.from_numpy(one)[None] for one in view.draw(item, Stream(0)))
    inputs = tuple(one.flatten(0, 1) for one in view.render(drawn, 0, slice(0, 1)))
    with torch.no_grad():
        found: NDArray[np.float32] = joint.images.run(inputs).embeddings.float().numpy()
    normalize(found)
    return found[0]
