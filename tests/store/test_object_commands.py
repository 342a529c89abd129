"""Every command on a store in a bucket: the same words, the same results as on a disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from fungistore.remote.bucket import open_bucket
from s3_world import KEYS, bucket, s3_server
from tiny_world import TINY, write_images

__all__ = ["bucket", "s3_server"]  # fixtures
SECRETS = {**KEYS, "AWS_SESSION_TOKEN": "a-token-of-tests"}


def fungi(*words: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a command; return what it prints as JSON, after a look for what must not be told."""
    done = CliRunner().invoke(app, [*words, "--json"])
    said = done.stdout + done.stderr
    assert done.exit_code in codes, f"{words}: {said}"
    for secret in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        assert SECRETS[secret] not in said
    assert "s3:/b" not in said  # a URL that went through pathlib
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def steps(store: str, source: Path, weights: Path, out: Path) -> list[tuple[str, ...]]:
    """Return what is done with a store, in order."""
    photo = str(next(source.rglob("*.jpg")))
    extract = ("extract", str(source), store, "--model", TINY, "--weights", str(weights))
    small = ("--image-size", "64", "--unit-rows", "8", "--batch-size", "4", "--device", "cpu")
    many = ("--features", "embeddings,kl,patches")
    train = ("--head", "linear", "--epochs", "1", "--holdout", "0.25", "--name", "h")
    return [
        (*extract, *small, *many, "--limit", "10"),
        (*extract, *small, *many),
        ("status", store),
        ("verify", store),
        ("verify", store, "--repair"),
        ("pca", store, "--features", "embeddings,kl", "--dim", "4", "--fit-split", "all"),
        ("index", store, "--factory", "Flat", "--name", "near"),
        ("search", store, "a/000.jpg", "--index", "near", "--k", "3"),
        ("search", store, photo, "--index", "near", "--k", "3"),
        ("eval", "knn", store, "--holdout", "0.3", "--k", "3"),
        ("eval", "linear", store, "--holdout", "0.3"),
        ("export", store, str(out), "--features", "embeddings"),
        ("train-loff", store, *train),
        ("eval", "loff", store, "--head", "h"),
        ("predict", store, photo, "--head", "h"),
    ]


@pytest.mark.slow
def test_every_command_takes_a_url(
    bucket: str, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, beside the same commands on a directory; nothing secret is stored."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRETS["AWS_SESSION_TOKEN"])
    for number, label in enumerate("ab"):
        write_images(tmp_path / "images" / label, 12, seed=number)
    url, folder = f"{bucket}/x y/s.fungi", str(tmp_path / "s.fungi")
    monkeypatch.chdir(tmp_path)
    results = [
        [fungi(*step) for step in steps(store, tmp_path / "images", tiny_weights, tmp_path / out)]
        for store, out in ((url, "remote.npy"), (folder, "local.npy"))
    ]
    for remote, local in zip(*results, strict=True):
        if "store" in remote:
            assert (remote["store"], local["store"]) == (url, folder)
        for same in ("metrics", "samples", "units", "failed", "answers", "findings", "scores"):
            assert remote.get(same) == local.get(same), same
    assert (tmp_path / "remote.npy").read_bytes() == (tmp_path / "local.npy").read_bytes()
    found = open_bucket(url)
    for one in found.below():
        data = found.get(one.key)
        for secret in SECRETS.values():
            assert secret == "us-east-1" or secret.encode() not in data, one.key
    assert not os.path.exists(tmp_path / "s3:")


def test_a_store_is_imported_into_a_bucket(bucket: str, tmp_path: Path) -> None:
    """From a file of features."""
    import numpy as np

    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    url = f"{bucket}/imported.fungi"
    fungi("import", str(tmp_path / "x.npy"), url)
    assert fungi("status", url)["store"] == url
