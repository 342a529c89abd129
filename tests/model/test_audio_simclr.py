"""SimCLR of recordings: the paper's settings, and views that are a sample's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fungistore.errors import UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.modalities.audio.filterbank import FilterBank
from fungistore.modalities.audio.recipes import RolledBanks
from fungistore.modalities.audio.recording import Recording
from fungistore.modalities.requests import NoisyRolls
from fungistore.objectives.audio_simclr import AudioSimCLR
from fungistore.objectives.objective import BankObjective, BankSpec, ViewOutputs
from fungistore.objectives.registry import objective_kind
from fungistore.randomness import Stream


def test_defaults_are_those_of_the_paper() -> None:
    """Sixteen views, a head of 768, and two views of 64 recordings as negatives (table 13)."""
    objective = AudioSimCLR()
    assert isinstance(objective, BankObjective)
    assert objective.temperature == 0.07
    assert objective.needs.heads == {"projection": 768}
    assert objective.needs.views == NoisyRolls(16, noise=0.1, roll=10, noise_before=True)
    assert objective.needs.bank == BankSpec("negatives", 768, 64, 2)
    assert AudioSimCLR(negatives=0).needs.bank is None
    assert AudioSimCLR(noise_before=False).needs.views.noise_before is False


def test_simclr_of_a_model_of_sounds_is_that_of_sounds() -> None:
    """`--features simclr` and its settings mean the objective of the model's modality."""
    assert objective_kind("simclr", "audio") is AudioSimCLR
    options = ExtractOptions(model="audio:some/ast", features=("simclr",))
    changed = options.with_settings("simclr.noise_before=false", "simclr.roll=5")
    assert changed.objectives["simclr"] == AudioSimCLR(noise_before=False, roll=5)
    assert ExtractOptions.from_config(changed.to_config()) == changed
    with pytest.raises(UsageError, match="unknown setting"):
        options.with_settings("simclr.deletion=0.1")


def test_the_loss_is_info_nce_with_a_bank() -> None:
    """A sample's loss depends on its views and the bank alone, and is the equation's."""
    torch.manual_seed(0)
    objective = AudioSimCLR(views=4, head_dim=6, negatives=3)
    head, embeddings = nn.Linear(5, 6), torch.randn(2, 4, 5)
    bank = objective.reduce(objective.latents(ViewOutputs(embeddings), {"projection": head})[0])
    assert bank.shape == (2, 6)
    found = objective.losses(ViewOutputs(embeddings), {"projection": head}, bank)
    for sample, loss in zip(embeddings, found, strict=True):
        z = nn.functional.normalize(head(sample), dim=-1)
        others = nn.functional.normalize(bank, dim=-1)
        terms = []
        for i in range(4):
            rest = [j for j in range(4) if j != i]
            all_scores = torch.cat([z[rest] @ z[i], others @ z[i]]) / 0.07
            terms.append(all_scores.exp().sum().log() - (z[rest] @ z[i]).mean() / 0.07)
        torch.testing.assert_close(loss, torch.stack(terms).mean(), atol=1e-5, rtol=1e-5)


def test_views_are_the_samples_own() -> None:
    """Another id draws other views, the same id the same ones, whatever was drawn before."""
    recordings = [
        Recording(np.random.default_rng(seed).normal(size=4000).astype(np.float32), 16000)
        for seed in range(3)
    ]
    recipe = RolledBanks(FilterBank(bins=8), 30, (-6.0, 5.0), AudioSimCLR(views=3).request)

    def drawn(order: list[int]) -> dict[int, np.ndarray]:
        streams = {i: Stream(42, "views", "simclr", f"{i}.wav") for i in order}
        return {i: recipe.draw(recordings[i], streams[i])[0] for i in order}

    together, alone = drawn([0, 1, 2]), drawn([2])
    np.testing.assert_array_equal(together[2], alone[2])
    assert together[2].shape == (3, 30, 8)
    other = recipe.draw(recordings[2], Stream(42, "views", "simclr", "other.wav"))[0]
    assert not (other == alone[2]).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("noise", -0.1), ("noise", float("nan")), ("roll", -1), ("views", 1), ("negative_views", 17)],
)
def test_unusable_settings_are_refused(setting: str, value: float) -> None:
    """With the setting's name."""
    with pytest.raises(UsageError, match=rf"simclr\.{setting}"):
        AudioSimCLR(**{setting: value})
