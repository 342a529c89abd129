"""Copies between host and device, and the order of launching and waiting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fungistore.machine.transfer import one_behind, send, start_fetch


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", ["launch 0", "use 0", "launch 1", "use 1", "launch 2", "use 2"]),
        ("cuda", ["launch 0", "launch 1", "use 0", "launch 2", "use 1", "use 2"]),
    ],
)
def test_a_gpu_has_the_next_batch_before_anyone_waits(device: str, expected: list[str]) -> None:
    """A CPU's batch is used at once; a GPU's when the next was launched; the last one is, too."""
    happened = []

    def launches() -> Iterator[int]:
        for number in range(3):
            happened.append(f"launch {number}")
            yield number

    for number in one_behind(launches(), torch.device(device)):
        happened.append(f"use {number}")
    assert happened == expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_launched_is_nothing_yielded(device: str) -> None:
    """An empty run ends."""
    assert list(one_behind([], torch.device(device))) == []


def test_what_is_fetched_is_float32() -> None:
    """Whatever the device computed in."""
    values = torch.arange(6.0).reshape(2, 3)
    fetched = start_fetch({"low": values.bfloat16(), "same": values})()
    assert {rows.dtype for rows in fetched.values()} == {np.dtype(np.float32)}
    assert np.array_equal(fetched["low"], values.numpy())
    assert np.array_equal(fetched["same"], values.numpy())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_fetch_does_not_wait_for_later_work() -> None:
    """A second of products launched after the copies is not over when they have arrived."""
    device = torch.device("cuda")
    first = send(torch.ones(1000), device) * 2
    fetch = start_fetch({"first": first})
    large = torch.randn(8192, 8192, device=device)
    for _ in range(40):
        large = large @ large
        large /= large.norm()
    done = torch.cuda.current_stream().record_event()
    assert fetch()["first"].tolist() == [2.0] * 1000
    assert not done.query()
