"""The main job, on real images with real pretrained weights: `make demo`.

Fetches a DINOv2 ViT-S/14 and textile images (see demo_assets.py), extracts embeddings, gradient
features and patch tensors of a subset, stops itself half-way, continues, shows the store, compares
features by nearest neighbours and by a linear probe, searches for images like one of them, and
trains a small classifier on the patch tensors. About five minutes on two cores. Every command is
printed, so that it can be typed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from demo_assets import dinov2_vits14_weights, textile_images, textile_subset

IMAGES_PER_CLASS = 40
UNITS_BEFORE_THE_STOP = 2
STOPPED = 75  # exit code of a run that SIGTERM stopped
PLACE = Path("demo")
STORE = PLACE / "textile.fungi"
MODEL = "vit_small_patch14_dinov2"


def main() -> None:
    """Run the demo in ./demo, from nothing."""
    began = time.monotonic()
    weights = dinov2_vits14_weights()
    shutil.rmtree(PLACE, ignore_errors=True)
    images = textile_subset(IMAGES_PER_CLASS, PLACE / "images")
    say(f"weights {weights}\nimages  {images}, of {textile_images()}")
    extract = [
        *("fungi", "extract", str(images), str(STORE), "--model", MODEL),
        *("--weights", str(weights), "--image-size", "224"),
        *("--features", "embeddings,kl,dino,patches", "--unit-rows", "16"),
    ]
    say("\nHow long will it take, and how large will it be?")
    run([*extract, "--dry-run"])
    say("\nThe job, and a SIGTERM in the middle of it:")
    interrupt(extract)
    say("\nThe same command continues where it stopped:")
    run(extract)
    say("\nWhat is in the store:")
    run(["fungi", "status", str(STORE)])
    table = ["--combinations", "nested", "--holdout", "0.3", "--seeds", "5"]
    say("\nWhat the gradients add to nearest neighbours, and to a linear probe:")
    run(["fungi", "eval", "knn", str(STORE), *table])
    run(["fungi", "eval", "linear", str(STORE), *table])
    say("\nWhat is most like an image? An index, a search, and a page to look at:")
    query = sorted(images.glob("*/*"))[0]
    run(["fungi", "index", str(STORE), "--features", "embeddings,kl,dino", "--name", "fungi"])
    page = PLACE / "search.html"
    run(["fungi", "search", str(STORE), str(query), "--index", "fungi", "--html", str(page)])
    say("\nA small classifier trained on the cached patch tensors (LOFF-TA), and tested:")
    train = ["--head", "vit-xs", "--epochs", "12", "--batch-size", "16", "--holdout", "0.3"]
    run(["fungi", "train-loff", str(STORE), *train])
    run(["fungi", "eval", "loff", str(STORE)])
    run(["fungi", "predict", str(STORE), str(query)])
    say(f"\nDone in {time.monotonic() - began:.0f} s. The arrays are plain zarr:")
    say(f"  zarr.open_group('{STORE}/features.zarr')['{MODEL}/gradients/dino']")


def run(command: list[str], expected: int = 0) -> None:
    """Print a command, run it, and insist on its exit code."""
    check(start(command), expected)


def interrupt(command: list[str]) -> None:
    """Start a command, and stop it by SIGTERM once some units are committed."""
    process = start(command)
    records = STORE / "commits" / MODEL / "patches"
    while process.poll() is None and len(list(records.glob("*.json"))) < UNITS_BEFORE_THE_STOP:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    check(process, STOPPED)


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Print a command and start it, with this environment's `fungi` first on the path."""
    say(f"$ {shlex.join(command)}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.Popen(command, env=os.environ | {"PATH": path})


def check(process: subprocess.Popen[bytes], expected: int) -> None:
    """Wait for a process and stop the demo if it ended otherwise than expected."""
    code = process.wait()
    if code != expected:
        sys.exit(f"the command above exited {code}, not {expected}")


def say(text: str) -> None:
    """Print to stdout, in order with what the commands print."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
