"""The examples of every command's --help run as printed, in order, where their files are."""

from __future__ import annotations

import shutil
from pathlib import Path
from textwrap import dedent

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fungi_cli.main import app
from PIL import Image
from reader import Shell
from typer.main import get_command

from tiny_world import write_images

CLASSES, PER_CLASS = ("cat", "dog", "fox", "hen", "owl"), 8
LONG = ("extract", "train-loff", "adapt", "eval adapted")
FROM_NOTHING = ("extract", "import", "adapt")  # these make the store of their examples
STORE = """
fungi extract pets.csv pets.fungi --model deit_tiny_patch16_224 --image-size 32 \
    --features embeddings,kl,dino,patches
"""
HEAD = "fungi train-loff pets.fungi --head attn-pool --epochs 1 --name"
ADAPTED = "--model deit_tiny_patch16_224 --image-size 32"
# What has come before the examples of a command.
BEFORE = {
    "eval adapted": "; ".join(
        f"fungi adapt pets.csv pets.fungi {ADAPTED} --method {name} --epochs 1 && "
        f"fungi extract pets.csv pets.fungi {ADAPTED} --features embeddings --adapter {name}"
        for name in ("vpt", "full")
    ),
    "eval cluster": "fungi pca pets.fungi --name fungi512",
    "eval loff": f"for name in vit-xs-ta plain-1 ta-1; do {HEAD} $name; done",
    "export": "rm *.npy *.h5 *.parquet",
    "index": "fungi pca pets.fungi --name half",
    "predict": f"{HEAD} vit-xs-ta",
    "table loff": f"for name in plain-1 ta-1; do {HEAD} $name; done",
    "search": "fungi index pets.fungi --features embeddings,kl",
    "verify": "cp -r pets.fungi copy-without-commits.fungi; rm -r copy-*/commits",
}
# Examples that show another way, from the start.
ANEW = ("fungi import train.h5", "fungi import pets.parquet", "--update")
# Examples that need what this world lacks: four GPUs, CLIP's weights, the Oxford buildings, masks,
# which tests/segmentation has, 512 rows, minutes; and the demo, which tests/demo runs.
LACKING = ["fungi demo", "--gpus", "photos.fungi", "gnd_roxford5k.pkl", "--dim 512", "none,512"]
LACKING += ["--head deit-s", "CUB_200_2011", "street.fungi", "scenes.fungi", "news.fungi"]
if shutil.which("jq") is None:
    LACKING.append("| jq ")


def examples() -> dict[str, list[str]]:
    """Return the examples of each command, by its words."""
    found: dict[str, list[str]] = {}

    def walk(words: list[str], command: object) -> None:
        if hasattr(command, "list_commands"):
            for word in command.list_commands(None):
                walk([*words, word], command.get_command(None, word))
            return
        lines = command.help.split("Examples:\n")[1].split("\n\n")[0]
        joined = dedent(lines).replace("\\\n", "")
        found[" ".join(words)] = [line for line in joined.splitlines() if line.strip()]

    walk([], get_command(app))
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples take for granted, but the store."""
    folder = tmp_path_factory.mktemp("examples") / "files"
    rows = []
    for seed, label in enumerate(CLASSES):
        write_images(folder / "images" / label, PER_CLASS, seed=seed)
        for image in sorted((folder / "images" / label).iterdir()):
            split = "test" if image.stem in ("006", "007") else "train"
            owner = f"owner {int(image.stem) // 2}"  # of pets of all kinds
            id_ = f"{label}/{image.name}"
            rows.append((f"images/{id_}", id_, label, split, owner))
    lines = ["path,id,label,split,owner", *(",".join(row) for row in rows)]
    (folder / "pets.csv").write_text("\n".join(lines) + "\n")
    (folder / "corrected.csv").write_text("id,label\ncat/000.jpg,dog\n")
    (folder / "splits.csv").write_text("id,split\ncat/000.jpg,val\n")
    for path, *_ in rows:
        with Image.open(folder / path) as picture:
            mask = Image.new("L", picture.size, 1)
        (folder / "masks" / path).parent.mkdir(parents=True, exist_ok=True)
        mask.save((folder / "masks" / path).with_suffix(".png"))
    shutil.copytree(folder / "images" / "cat", folder / "new")
    shutil.copy(folder / "new" / "000.jpg", folder / "photo.jpg")
    settings = {"model": "deit_tiny_patch16_224", "feature_set": "own"}
    (folder / "settings.toml").write_text("".join(f'{k} = "{v}"\n' for k, v in settings.items()))
    vectors = np.random.default_rng(0).normal(size=(len(rows), 4)).astype(np.float32)
    np.save(folder / "pets.npy", vectors)
    np.save(folder / "tokens.npy", vectors.repeat(5, axis=0).reshape(len(rows), 5, 4))
    columns = {"name": [row[1] for row in rows], "breed": [row[2] for row in rows]}
    columns |= {f"f{number}": vectors[:, number] for number in range(4)}
    pq.write_table(pa.table(columns), folder / "pets.parquet")
    for split, part in (("train", slice(0, 30)), ("test", slice(30, 40))):
        targets = np.arange(len(vectors[part])) % 2
        for name, key in ((split, "embeddings"), (f"kl-{split}", "attn_proj")):
            with h5py.File(folder / f"{name}.h5", "w") as file:
                file[key], file["targets"] = vectors[part], targets
    return folder


@pytest.fixture(scope="module")
def prepared(shell: Shell, files: Path) -> Path:
    """The files, and a store of them."""
    folder = Path(shutil.copytree(files, files.parent / "prepared"))
    code, printed = shell.run(STORE, folder)
    assert code == 0, printed
    return folder


@pytest.mark.parametrize(
    "name",
    # the pages of docs/ have the same commands as these two, and quick tests run them
    [pytest.param(one, marks=[pytest.mark.slow] * (one in LONG)) for one in examples()],
)
def test_the_examples_of_a_command_run(
    name: str, shell: Shell, files: Path, prepared: Path, tmp_path: Path
) -> None:
    """One after the other, each with exit code 0."""
    start, folder = files if name in FROM_NOTHING else prepared, tmp_path / "work"
    shutil.copytree(start, folder)
    commands = [BEFORE.get(name, "true"), *examples()[name]]
    wrong = []
    for command in commands:
        if any(part in command for part in ANEW):
            shutil.rmtree(folder)
            shutil.copytree(start, folder)
        if any(part in command for part in LACKING):
            continue
        code, printed = shell.run(command, folder)
        if code:
            wrong.append(f"{command}\nexit code {code}\n{printed}")
    assert not wrong, "\n\n".join(wrong)
