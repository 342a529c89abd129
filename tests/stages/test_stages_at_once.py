"""Different stages of one store run at the same time, and leave what they leave one by one."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from stage_world import (
    FUNGI,
    assert_same_content,
    assert_sound,
    environment,
    extract_command,
    run,
    stage_command,
    write_split_images,
)

SKIPPED = 3


@pytest.mark.slow
def test_stages_run_beside_an_extraction_and_each_other(tmp_path: Path, tiny_weights: Path) -> None:
    """While an extraction writes one set: PCA, index, training, evaluation, search of the other."""
    images = write_split_images(tmp_path / "images")
    store, whole = tmp_path / "s.fungi", tmp_path / "whole.fungi"
    others = ("--feature-set", "b", "--seed", 1)
    of_a = ("--feature-set", "a")
    first_index = [*FUNGI, "index", "--features", "embeddings", "--name", "first", *of_a]
    for root in (store, whole):
        run(extract_command(images, root, tiny_weights, *of_a), SKIPPED)
        run([*first_index, str(root)])
    stages = ("pca", "index", "train-loff")
    evaluation = ("eval", "knn", *of_a)
    found = ("search", str(store), "train/cat/000.jpg", "--index", "first")
    commands = [stage_command(stage, store, *of_a) for stage in stages]
    commands += [[*FUNGI, *words] for words in (found, (*evaluation, str(store)))]
    commands += [[*FUNGI, word, str(store)] for word in ("status", "verify")]
    with ExitStack() as started:
        extraction = start(extract_command(images, store, tiny_weights, *others), started)
        pause_in_the_midst(extraction, store, "b")
        running = [start(command, started) for command in commands]
        for process in running:
            said = process.communicate(timeout=300)
            assert process.returncode == 0, said
        assert extraction.poll() is None
        extraction.send_signal(signal.SIGCONT)
        said = extraction.communicate(timeout=300)
        assert extraction.returncode == SKIPPED, said
    assert_sound(store)
    run(extract_command(images, whole, tiny_weights, *others), SKIPPED)
    for stage in stages:
        run(stage_command(stage, whole, *of_a))
    run([*FUNGI, *evaluation, str(whole)])
    assert_same_content(store, whole)


def start(command: list[str], started: ExitStack) -> subprocess.Popen[str]:
    """Start a process that is gone, at the latest, when the stack is closed."""
    pipe = subprocess.PIPE
    process = started.enter_context(
        subprocess.Popen(command, env=environment(), stdout=pipe, stderr=pipe, text=True)
    )
    started.callback(process.kill)
    return process


def pause_in_the_midst(process: subprocess.Popen[str], store: Path, feature_set: str) -> None:
    """Stop an extraction for a while that has some units and wants more."""
    while len(list(store.glob(f"commits/{feature_set}/embeddings/*.json"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    while True:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        if not holds_the_short_lock(store):
            return
        process.send_signal(signal.SIGCONT)  # that one it lets go at once, and others need it
        time.sleep(0.01)


def holds_the_short_lock(store: Path) -> bool:
    with (store / ".locks" / "short.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
