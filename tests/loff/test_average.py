"""The moving average of weights: by hand, put in place and back, and resumed exactly.

That a whole training keeps and validates the average is in test_training.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_train import options, same, store_of, weights

from fungistore.errors import StoppedError
from fungistore.loff.head_folder import head_run
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context
from fungistore.training.average import WeightAverage

pytestmark = pytest.mark.usefixtures("small_heads")


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_it_is_the_weighed_mean_of_all_that_was_recorded(decay):
    """Each state with its decay by hand; whole numbers, such as counters, are no part of it."""
    random = np.random.default_rng(0)
    states = random.normal(size=(30, 4))
    live = {"w": torch.from_numpy(states[0]).clone(), "n": torch.tensor(3)}
    average = WeightAverage(live, decay)
    parts = np.zeros(30)
    parts[0] = 1
    for step, state in enumerate(states[1:]):
        live["w"].copy_(torch.from_numpy(state))
        average.update(step)
        rate = min(decay, (1 + step) / (10 + step))
        parts *= rate
        parts[step + 1] = 1 - rate
    assert average.tensors.keys() == {"w"}
    np.testing.assert_allclose(average.tensors["w"], parts @ states, rtol=1e-10)


def test_it_is_in_place_for_a_while_alone():
    """Afterwards the live weights are back to the bit, whatever was raised."""
    live = {"w": torch.nn.Parameter(torch.randn(5)), "mean": torch.randn(3)}
    average = WeightAverage(live, 0.9)
    begin = {name: tensor.detach().clone() for name, tensor in live.items()}
    with torch.no_grad():
        live["w"] += 1
    average.update(0)
    moved = live["w"].detach().clone()

    def fail_with_it():
        with average.in_place():
            assert torch.equal(live["w"], average.tensors["w"])
            assert not torch.equal(live["w"], moved)
            raise KeyError

    with pytest.raises(KeyError):
        fail_with_it()
    assert torch.equal(live["w"], moved)
    assert torch.equal(average.tensors["mean"], begin["mean"])  # what never moves stays, exactly


@pytest.mark.parametrize("steps", [2, 4, 7])
def test_a_run_that_was_stopped_goes_on_with_its_average(tmp_path, steps):
    """In an epoch, at its end and in the next one: the same bits as without a stop."""
    one, other = store_of(tmp_path / "one.fungi"), store_of(tmp_path / "other.fungi")
    asked = options(ema=0.9, epochs=2)
    train_loff(one.root, asked)
    calls = iter(range(100))
    with pytest.raises(StoppedError):
        train_loff(other.root, asked, context=Context(stop=lambda: next(calls) >= steps))
    stored = weights(other)
    assert any(
        not torch.equal(stored[f"average.{n[6:]}"], stored[n]) for n in stored if n[:6] == "model."
    )
    train_loff(other.root, asked)
    assert same(weights(one), weights(other))
    histories = [head_run(s, "set", "h").progress().history for s in (one, other)]
    assert histories[0] == histories[1]


def test_moments_are_not_averaged_away(tmp_path):
    """The standardising of an averaged head is that of the training rows, bit for bit."""
    store = store_of(tmp_path / "s.fungi")
    for name, ema in (("h", 0.0), ("averaged", 0.99)):
        train_loff(store.root, options(name=name, epochs=1, ema=ema))
    plain, averaged = weights(store), weights(store, "averaged")
    for name in ("best.standardise.mean", "best.standardise.deviation"):
        assert torch.equal(plain[name], averaged[name])
    assert not torch.equal(plain["best.classifier.weight"], averaged["best.classifier.weight"])
