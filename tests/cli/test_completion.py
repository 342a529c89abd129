"""What a shell is offered at a half typed value, asked as the shell's own script asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

STORE = str(Path(__file__).parents[1] / "fixtures/store-2.0.fungi")


def offered(line: str, **more: str) -> list[str]:
    """What bash gets for a line with the cursor at its end."""
    words = line.split(" ")
    asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    asked |= {"_FUNGI_COMPLETE": "complete_bash"} | more
    done = CliRunner().invoke(app, [], prog_name="fungi", env=asked)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"fungi pca {STORE} --feature-set ", ["vit"]),
        (f"fungi pca {STORE} --features ", ["dino", "embeddings", "kl", "simclr"]),
        (f"fungi pca {STORE} --features kl,e", ["kl,embeddings"]),
        (f"fungi eval knn {STORE} --features kl,k", []),
        (f"fungi eval knn {STORE} --pca ", ["four"]),
        (f"fungi eval knn {STORE} --feature-set other --pca ", []),
        (f"fungi search {STORE} photo.jpg --index ", ["exact", "graph"]),
        (f"fungi search {STORE} photo.jpg --index g", ["graph"]),
        (f"fungi eval loff {STORE} --head ", ["head"]),
        (f"fungi predict {STORE} photo.jpg --head=h", ["head"]),
        ("fungi pca --pca ", []),  # the store is not named yet
        ("fungi eval knn no-such-store --pca ", []),
        (
            "fungi extract a b --features embeddings,",
            [
                *("deepcluster", "dino", "ibot", "kl", "mlm"),
                *("patches", "patches/kl", "patches/simclr", "simclr"),
            ],
        ),
        ("fungi extract a b --dtype f", ["float16", "float32"]),
        ("fungi extract a b --view-size ", ["model", "native"]),
        ("fungi eval knn s --vote w", ["weighted"]),
        ("fungi extract a b --model deit_tiny_patch16_224", ["deit_tiny_patch16_224"]),
        ("fungi eval l", ["linear", "loff"]),
        ("fungi st", ["status"]),
        ("fungi extract a b --dry", ["--dry-run"]),
    ],
)
def test_a_value_is_completed(line: str, expected: list[str]) -> None:
    found = offered(line)
    if line.endswith(","):
        expected = [f"embeddings,{name}" for name in expected]
    if "--model" in line:
        assert set(expected) < set(found)
        assert all(name.startswith(line.split()[-1]) for name in found)
    else:
        assert sorted(found) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"pca {STORE} --features = kl,e", ["kl,embeddings"]),
        (f"pca {STORE} --features = embeddings --feature-set = v", ["vit"]),
        (f"pca {STORE} --feature-set =", ["vit"]),
        ("extract a b --view-size = n", ["native"]),
        ("extract a b --set = kl", []),
    ],
)
def test_a_value_behind_an_equals_sign_is_completed(words: str, expected: list[str]) -> None:
    """Bash gives `--flag=VALUE` in three words, and replaces the last of them."""
    assert offered(f"fungi {words}") == expected


def test_a_store_that_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    """No message, no traceback: a file, odd names, a folder in a file's place."""
    (tmp_path / "file.fungi").write_text("no store")
    odd = tmp_path / "odd[1].fungi"
    (odd / "features.zarr" / "set" / "pca" / "of[odd]").mkdir(parents=True)
    (odd / "features.zarr" / "set" / "pca" / ".DS_Store").mkdir()
    (odd / "features.zarr" / "set" / "pca" / "zarr.json").write_text("{")
    assert offered(f"fungi pca {tmp_path / 'file.fungi'} --feature-set ") == []
    assert offered(f"fungi pca {odd} --feature-set ") == ["set"]
    assert offered(f"fungi eval knn {odd} --feature-set [!x]* --pca ") == []
    assert offered(f"fungi eval knn {odd} --pca ") == ["of[odd]"]
    assert offered("fungi eval knn ~nobody/s.fungi --pca ") == []


def test_a_store_below_the_home_is_found_as_it_is_typed() -> None:
    home = str(Path(STORE).parent)
    assert offered("fungi eval knn ~/store-2.0.fungi --pca ", HOME=home) == ["four"]


def test_completion_imports_nothing_heavy() -> None:
    """Neither of models nor of what a store has: the cursor waits."""
    code = (
        "import os, sys\n"
        "from fungi_cli.main import app\n"
        "try: app(prog_name='fungi')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'timm', 'numpy', 'zarr', 'pyarrow'} & set(sys.modules)\n"
    )
    for words in ("fungi extract a b --model deit_t", f"fungi pca {STORE} --features k"):
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        asked["_FUNGI_COMPLETE"] = "complete_bash"
        done = subprocess.run(
            [sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=True
        )
        assert words.split()[-1] in done.stdout
