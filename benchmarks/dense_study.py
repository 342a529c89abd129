"""When do patch gradients help in-context segmentation? One factor at a time, mIoU over seeds.

    for SET in brain earth stamps; do python examples/dense_sets.py $SET sets/$SET; done
    python benchmarks/dense_study.py --pack .dense --sets sets
    python benchmarks/dense_study.py --packed .dense --device cuda --out study.jsonl --seconds 200
    python benchmarks/dense_study.py --table study.jsonl

Packs DINOv2 ViT-S/14 (float16) and the sets (images as JPEG) into one folder of some 55 MB, all
that a run needs beside torch, timm, NumPy and Pillow. A run goes through all settings, the most
informative first, writes a JSON line for each as it goes, leaves out those that the file has, and
stops by itself. Nothing of fungi is imported: the numbers are also a check on fungi's own.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - everybody's name

import dense_protocol as protocol

SETS = ("stamps", "brain", "earth")
SEEDS = 3
JPEG_QUALITY = 80
SUPPORT = 30_000  # tokens of training images among which negatives are looked for
IMAGE_TOKENS = 16_384  # that go through the backbone at a time


@dataclass(frozen=True)
class Gradient:
    """What decides the gradients of a set's tokens.

    Attributes:
        objective: `simclr` (image-level InfoNCE of all tokens) or `kl` (of every token).
        in_denominator: whether InfoNCE's temperature divides in its denominator too.
        negatives: `nearest` or `random` tokens of other training images; `own`: the nearest of all
            images, its own too; `unit`: unit vectors, as the reference's bank has them;
            `scrambled`: these, mixed up as in the reference; `none`.
        layer: whose weights the gradient is of.
        projection: `binary`, `tensorsketch`, `rank-one`.
        dim: what it is projected to.
    """

    objective: str = "simclr"
    in_denominator: bool = False
    negatives: str = "nearest"
    layer: str = "blocks.11.attn.proj"
    projection: str = "binary"
    dim: int = 384


@dataclass(frozen=True)
class Setting:
    """One row of the study, but for the set and the seed.

    Attributes:
        features: `patches`, `gradient` or `both`.
        gradient: of which kind.
        weight: of the gradient beside the patch token.
        pca: to how many dimensions, fitted on tokens of the bank; 0 for none.
        centred: whether the mean token of each position is subtracted from patch tokens.
        per_image: patches of each training image in the bank; 0 for all.
        shots: the share of training images in the bank.
        k: neighbours.
        beta: temperature of the attention over them.
        size: side of the images, in pixels.
    """

    features: str = "both"
    gradient: Gradient = Gradient()
    weight: float = 1.0
    pca: int = 0
    centred: bool = False
    per_image: int = 324  # as many as an image of 252 pixels has
    shots: float = 1.0
    k: int = 30
    beta: float = 0.02
    size: int = 252


PATCHES = Setting("patches")
FEW: dict[str, Any] = {"shots": 1 / 8, "k": 90, "beta": 0.1, "per_image": 0}
OTHER_GRADIENTS = (
    Gradient(objective="kl"),
    Gradient(in_denominator=True),
    Gradient(projection="tensorsketch"),
    Gradient(negatives="random"),
    Gradient(negatives="none"),
    Gradient(negatives="scrambled"),
    Gradient(negatives="unit"),
    Gradient(negatives="own"),
    Gradient(layer="blocks.11.mlp.fc2"),
    Gradient(layer="blocks.10.attn.proj"),
    Gradient(projection="rank-one"),
    Gradient(projection="tensorsketch", dim=1536),
    Gradient(in_denominator=True, negatives="random"),
    Gradient(in_denominator=True, negatives="none"),
)


def plan() -> Iterator[tuple[Setting, str, int]]:
    """Yield (setting, set, seed), the most informative first, those of one gradient together."""
    small = base_settings(252)
    large = base_settings(518)
    others = [Setting(kind, one) for one in OTHER_GRADIENTS for kind in ("both", "gradient")]
    large_others = [Setting(gradient=one, size=518) for one in OTHER_GRADIENTS[:3]]
    large_others.append(Setting(size=518, per_image=0))
    large_others.append(replace(PATCHES, size=518, per_image=0))
    for seed in range(SEEDS):
        for settings in (small, large[:3], others, large[3:], large_others):
            for name in SETS:
                for setting in settings:
                    yield setting, name, seed


def base_settings(size: int) -> list[Setting]:
    """The settings that share one gradient."""
    both, patches = Setting(size=size), replace(PATCHES, size=size)
    gradient = replace(both, features="gradient")
    few = [replace(one, **FEW) for one in (patches, gradient, both)]
    weighted = [replace(both, weight=weight) for weight in (0.25, 0.5, 2.0)]
    reduced = [replace(one, per_image=32) for one in (patches, gradient, both)]
    centred = [replace(one, centred=True) for one in (patches, both)]
    principal = [replace(one, pca=384) for one in (patches, both)]
    return [patches, gradient, both, *few, *weighted, *reduced, *centred, *principal]


# ---------------------------------------------------------------- sets


def pack(folder: Path, sets: Path, weights: Path) -> None:
    """Write the weights and the sets into a folder."""
    from safetensors.numpy import load_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    state: dict[str, Any] = {k: v.astype(np.float16) for k, v in load_file(weights).items()}
    np.savez_compressed(folder / "weights.npz", **state)
    for name in SETS:
        with (sets / name / "images.csv").open() as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            image, mask = (folder / name / row[key] for key in ("path", "mask"))
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            row["path"] = str(Path(row["path"]).with_suffix(".jpg"))
            picture = Image.open(sets / name / row["mask"].replace("masks", "images"))
            picture.save(image.with_suffix(".jpg"), quality=JPEG_QUALITY)
            mask.write_bytes((sets / name / row["mask"]).read_bytes())
        (folder / name / "classes.txt").write_text((sets / name / "classes.txt").read_text())
        with (folder / name / "images.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["path", "mask", "split"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB")


@dataclass(frozen=True)
class Tokens:
    """A set through the backbone at one size.

    Attributes:
        raw: tokens after the final norm [N, P, D].
        entering: those before block TAIL [N, P, D].
        counts: pixels of each class in each patch of the training images [N, T, C].
        masks: of the test images, at their own size.
        train: how many images are for training; they come first.
        grid: patches of a side.
        classes: how many.
    """

    raw: Tensor
    entering: Tensor
    counts: Tensor
    masks: list[Tensor]
    train: int
    grid: int
    classes: int


class Study:
    """Runs settings over packed sets; keeps what several of them need.

    Args:
        packed: the folder that `pack` wrote.
        device: to run on.
        limit: of each split's images; 0 for none.
    """

    def __init__(self, packed: Path, device: str, limit: int) -> None:
        self.packed, self.limit = packed, limit
        self.device = torch.device(device)
        with np.load(packed / "weights.npz") as arrays:
            state = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
        self.model = protocol.load_backbone(state, self.device)
        self._kept: dict[Any, Any] = {}

    def miou(self, setting: Setting, name: str, seed: int) -> Tensor:
        """The IoU of each class [C] on the test images."""
        tokens = self.tokens(name, setting.size)
        features = self.features(setting, name, seed)
        rows, patches = self.bank(setting, tokens, seed)
        bank = features[rows, patches]
        if setting.pca:
            middle, axes = protocol.principal(bank, setting.pca)
            project = partial(self._project, middle, axes)
            bank, features = project(bank), project(features)
        labels = F.normalize(tokens.counts[rows, patches].float(), p=1, dim=1)
        confusion = torch.zeros(tokens.classes, tokens.classes, device=self.device).long()
        for index, mask in enumerate(tokens.masks):
            cosines, places = protocol.nearest(features[tokens.train + index], bank, setting.k)
            soft = protocol.cross_attention(cosines, labels[places], setting.beta)
            classes = protocol.segmented(soft.view(tokens.grid, tokens.grid, -1), *mask.shape)
            confusion += protocol.confusion_of(mask, classes, tokens.classes)
        return protocol.intersection_over_union(confusion)

    @staticmethod
    def _project(middle: Tensor, axes: Tensor, rows: Tensor) -> Tensor:
        return F.normalize((rows - middle) @ axes, dim=-1)

    def bank(self, setting: Setting, tokens: Tokens, seed: int) -> tuple[Tensor, Tensor]:
        """Image and patch [M] of the bank's vectors: each image's lowest scores."""
        order = torch.randperm(tokens.train, generator=protocol.generator(seed, "shots"))
        images = order[: max(1, round(setting.shots * tokens.train))].sort().values
        count = tokens.counts.shape[1]
        each = min(setting.per_image or count, count)
        uniform = torch.rand(tokens.train, count, generator=protocol.generator(seed, "bank"))
        chosen = []
        for image in images.tolist():
            scores = protocol.patch_scores(tokens.counts[image]) * uniform[image].to(self.device)
            chosen.append(scores.topk(each, largest=False).indices)
        rows = images.to(self.device).repeat_interleave(each)
        return rows, torch.cat(chosen)

    def features(self, setting: Setting, name: str, seed: int) -> Tensor:
        """The features of all patches [N, T, dim], unit vectors."""
        tokens = self.tokens(name, setting.size)
        patches = tokens.raw[:, 1:]
        if setting.centred:
            patches = patches - patches[: tokens.train].mean(0)
        blocks = [(patches, 1.0)]
        if setting.features != "patches":
            key = ("gradient", name, setting.size, setting.gradient, seed)
            make = partial(self._gradients, setting.gradient, name, setting.size, seed)
            gradients = self._keep("gradient", key, make)
            blocks.append((gradients, setting.weight))
        return protocol.joined(blocks[setting.features == "gradient" :])

    def _keep(self, slot: Any, key: Any, make: Any) -> Any:
        """What `make` gives, made again only where the slot's key is another one."""
        if slot not in self._kept or self._kept[slot][0] != key:
            self._kept.pop(slot, None)
            self._kept[slot] = (key, make())
        return self._kept[slot][1]

    def _gradients(self, gradient: Gradient, name: str, size: int, seed: int) -> Tensor:
        """Projected gradients of all patches [N, T, G]."""
        tokens = self.tokens(name, size)
        is_kl = gradient.objective == "kl"
        wide = tokens.raw.shape[-1]
        out = protocol.KL_DIM if is_kl else protocol.HEAD_DIM
        head = protocol.linear_head(wide, out, seed, gradient.objective).to(self.device)
        linear = self.model.get_submodule(gradient.layer)
        project = self._keep(
            "projection",
            (linear.out_features, linear.in_features, gradient.projection, gradient.dim, seed),
            lambda: protocol.draw_projection(
                gradient.projection,
                (linear.out_features, linear.in_features + 1),
                gradient.dim,
                seed,
            ).to(self.device),
        )
        made = []
        for part in self._parts(len(tokens.raw), tokens.raw.shape[1]):
            if is_kl:
                loss = partial(self._kl, head)
            else:
                negatives, keep = self._negatives(gradient, name, size, seed, part)
                loss = partial(self._simclr, head, negatives, keep, gradient.in_denominator)
            a, b = protocol.token_gradients(self.model, tokens.entering[part], gradient.layer, loss)
            a, b = (x[:, 1:].flatten(0, 1) for x in (a, F.normalize(b, dim=-1)))
            made.append(project(b, F.pad(a, (0, 1), value=1.0)))
        return torch.cat(made).view(len(tokens.raw), -1, gradient.dim)

    @staticmethod
    def _kl(head: torch.nn.Linear, tokens: Tensor) -> Tensor:
        return protocol.kl_to_uniform(head(F.normalize(tokens, dim=-1)))

    @staticmethod
    def _simclr(
        head: torch.nn.Linear, negatives: Tensor, keep: Tensor, in_denominator: bool, tokens: Tensor
    ) -> Tensor:
        return protocol.info_nce(head(tokens), head(negatives), keep, in_denominator)

    def _negatives(
        self, gradient: Gradient, name: str, size: int, seed: int, part: slice
    ) -> tuple[Tensor, Tensor]:
        """The tokens [B, N, D] that some images are contrasted with, and which count [B, N]."""
        tokens = self.tokens(name, size)
        support, _ = self._support(name, size)
        images, count = len(tokens.raw[part]), tokens.raw.shape[1]
        draws = protocol.generator(seed, "kept", part.start)
        keep = torch.rand(images, count * protocol.NEIGHBOURS, generator=draws) < protocol.KEPT
        keep = keep.to(self.device) & (gradient.negatives != "none")
        if gradient.negatives in ("random", "none"):
            shape = (images, count, protocol.NEIGHBOURS)
            places = torch.randint(len(support), shape, generator=draws).to(self.device)
        else:
            own = gradient.negatives == "own"
            key = ("neighbours", name, size, own)
            places = self._keep(key, key, partial(self._neighbours, name, size, own))[part].long()
        found = support[places]
        if gradient.negatives in ("unit", "scrambled"):
            found = F.normalize(found, dim=-1)
        if gradient.negatives == "scrambled":
            found = protocol.scrambled(found)
        return found.flatten(1, 2), keep

    def _support(self, name: str, size: int) -> tuple[Tensor, Tensor]:
        """Raw patch tokens of training images [S, D], drawn once, and their images [S]."""
        key = ("support", name, size)
        return self._keep(key, key, partial(self._draw_support, name, size))

    def _draw_support(self, name: str, size: int) -> tuple[Tensor, Tensor]:
        tokens = self.tokens(name, size)
        count = tokens.raw.shape[1] - 1
        total = tokens.train * count
        draws = protocol.generator(0, "support")
        chosen = torch.randperm(total, generator=draws)[:SUPPORT].to(self.device)
        image, patch = chosen // count, chosen % count
        return tokens.raw[image, 1 + patch], image

    def _neighbours(self, name: str, size: int, own: bool) -> Tensor:
        """Places in the support of the nearest of every token [N, P, n]."""
        tokens = self.tokens(name, size)
        support, owners = self._support(name, size)
        support = F.normalize(support, dim=-1)
        found = []
        for image, raw in enumerate(tokens.raw):
            ours = torch.full((len(raw),), -1 if own else image, device=self.device)
            queries = F.normalize(raw, dim=-1)
            _, places = protocol.nearest(queries, support, protocol.NEIGHBOURS, ours, owners)
            found.append(places.int())
        return torch.stack(found)

    def tokens(self, name: str, size: int) -> Tokens:
        """A set through the backbone, once."""
        key = ("tokens", name, size)
        return self._keep(key, key, partial(self._run, name, size))

    def _run(self, name: str, size: int) -> Tokens:
        folder = self.packed / name
        classes = len((folder / "classes.txt").read_text().splitlines())
        with (folder / "images.csv").open() as file:
            rows = list(csv.DictReader(file))
        splits = [[row for row in rows if row["split"] == split] for split in ("train", "test")]
        if self.limit:
            splits = [spread(split, self.limit) for split in splits]
        train = len(splits[0])
        rows = splits[0] + splits[1]
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(partial(read_image, folder, size), rows))
            masks = list(pool.map(partial(read_mask, folder), rows))
        pixels = protocol.as_tensor(images)
        made = [
            protocol.forward(self.model, pixels[part].to(self.device))
            for part in self._parts(len(rows), (size // protocol.PATCH) ** 2)
        ]
        grid = size // protocol.PATCH
        counts = [
            protocol.cell_counts(self._resized(mask, size), grid, classes) for mask in masks[:train]
        ]
        return Tokens(
            raw=torch.cat([raw for raw, _ in made]),
            entering=torch.cat([entering for _, entering in made]),
            counts=torch.stack(counts),
            masks=[torch.from_numpy(mask).to(self.device) for mask in masks[train:]],
            train=train,
            grid=grid,
            classes=classes,
        )

    def _resized(self, mask: np.ndarray, size: int) -> Tensor:
        image = Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(image)).to(self.device)

    @staticmethod
    def _parts(count: int, tokens: int) -> Iterator[slice]:
        return protocol.batches(count, max(1, IMAGE_TOKENS // tokens))


def spread(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """At most so many rows, evenly spaced."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def read_image(folder: Path, size: int, row: dict[str, str]) -> np.ndarray:
    """An image, squashed to a square [S, S, 3]."""
    with Image.open(folder / row["path"]) as image:
        return np.array(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def read_mask(folder: Path, row: dict[str, str]) -> np.ndarray:
    """A mask's class indices [H, W]."""
    with Image.open(folder / row["mask"]) as mask:
        return np.array(mask)


# ---------------------------------------------------------------- running


def run(study: Study, out: Path, seconds: float, only: str) -> None:
    """Go through the plan until it, or the time, ends."""
    began = time.monotonic()
    done = {identity(line) for line in read_lines(out)}
    longest = 0.0
    with out.open("a") as file:
        for setting, name, seed in plan():
            line = {"set": name, "seed": seed, **flat(setting)}
            if identity(line) in done or only not in f"{name} {setting.size} {title(line)}":
                continue
            start = time.monotonic()
            if start - began + longest > seconds:
                print(f"stopped after {start - began:.0f} s: the next may not end in time")
                return
            scores = study.miou(setting, name, seed)
            known = scores[~scores.isnan()]
            line["miou"] = round(100 * float(known.mean()), 3)
            line["iou"] = [round(100 * score, 2) for score in scores.tolist()]
            line["seconds"] = round(time.monotonic() - start, 2)
            longest = max(longest, line["seconds"])
            file.write(json.dumps(line) + "\n")
            file.flush()
            result = f"{name:7}{setting.size} {seed} {line['miou']:6.2f} {line['seconds']:6.2f} s"
            print(f"{result}  {title(line)}", flush=True)
    print(f"the whole plan, {time.monotonic() - began:.0f} s")


def flat(setting: Setting) -> dict[str, Any]:
    """A setting's fields beside its gradient's."""
    fields = dataclasses.asdict(setting)
    gradient = fields.pop("gradient")
    return fields | (gradient if setting.features != "patches" else {})


def identity(line: dict[str, Any]) -> str:
    """What makes two lines the same measurement."""
    return json.dumps({k: v for k, v in line.items() if k not in RESULTS}, sort_keys=True)


RESULTS = ("miou", "iou", "seconds")


def title(line: dict[str, Any]) -> str:
    """A row's name: its features, and every field that is not the base setting's."""
    base = flat(Setting())
    skipped = ("features", "set", "seed", "size", *RESULTS)
    shot = line["shots"] < 1
    if shot:
        base |= FEW
    changed = [f"{k} {v}" for k, v in line.items() if k not in skipped and v != base[k]]
    return ", ".join([line["features"], *(["few-shot"] if shot else []), *changed])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a result file, if it is there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(path: Path) -> str:
    """Mean and deviation over seeds as Markdown: a row a setting, sets and sizes as columns."""
    cells: dict[str, dict[str, list[float]]] = {}
    for line in read_lines(path):
        column = f"{line['set']} {line['size']}"
        cells.setdefault(title(line), {}).setdefault(column, []).append(line["miou"])
    columns = [f"{name} {size}" for size in (252, 518) for name in SETS]
    columns = [column for column in columns if any(column in row for row in cells.values())]
    lines = ["| features | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in cells.items():
        lines.append("| " + " | ".join([name, *(cell(row.get(c, [])) for c in columns)]) + " |")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    """Mean and deviation, as far as they are known."""
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else ""
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def main() -> None:
    """Pack, run, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, help="the folder to write")
    parser.add_argument("--sets", type=Path, default=Path("sets"))
    cached = Path("~/.cache/fungi/vit_small_patch14_dinov2.safetensors").expanduser()
    parser.add_argument("--weights", type=Path, default=cached)
    parser.add_argument("--packed", type=Path, help="run from this folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("study.jsonl"))
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", default="", help="settings whose 'SET SIZE TITLE' has this text")
    parser.add_argument("--limit", type=int, default=0, help="images of each split")
    parser.add_argument("--table", type=Path, help="a result file, to be printed as Markdown")
    arguments = parser.parse_args()
    if arguments.pack:
        pack(arguments.pack, arguments.sets, arguments.weights)
    if arguments.packed:
        study = Study(arguments.packed, arguments.device, arguments.limit)
        run(study, arguments.out, arguments.seconds, arguments.only)
    if arguments.table or arguments.packed:
        print(table(arguments.table or arguments.out))


if __name__ == "__main__":
    main()
