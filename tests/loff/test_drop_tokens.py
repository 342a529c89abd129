"""Cells that a training step leaves out: which ones, and that a head sees the others alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from test_train import CHANNELS, options, same, store_of, weights
from timm.layers import AttentionPoolLatent

from fungistore.errors import StoppedError, UsageError
from fungistore.loff.augment import draw
from fungistore.loff.head import HeadSpec
from fungistore.loff.head_folder import head_run
from fungistore.loff.heads import build_head
from fungistore.loff.options import Augmentation
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context

pytestmark = pytest.mark.usefixtures("small_heads")
GRID = (3, 5)


def drawn_of(share, count=4, grid=GRID, **where):
    at = {"seed": 0, "epoch": 0, "step": 0} | where
    augmentation = Augmentation(kind="trivial", noise=0.0, drop_tokens=share)
    return draw(augmentation, (count, *grid, CHANNELS), **at)


@pytest.mark.parametrize(("share", "kept"), [(0.5, 8), (0.4, 9), (0.99, 1), (0.01, 15)])
def test_each_sample_keeps_as_many_cells_in_their_order(share, kept):
    """Rounded, and at least one."""
    cells = drawn_of(share, count=50).cells.numpy()
    assert cells.shape == (50, kept)
    assert (np.diff(cells, axis=1) > 0).all()
    assert cells.min() >= 0
    assert cells.max() < 15


def test_every_cell_is_kept_alike_and_others_in_each_step():
    """Uniform over cells, independent of the place in the batch, of seed, epoch and step."""
    cells = drawn_of(0.6, count=3000).cells
    counts = np.bincount(cells.flatten().numpy(), minlength=15)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert len({tuple(one) for one in cells.tolist()}) > 1000
    assert torch.equal(drawn_of(0.6, count=10).cells, cells[:10])
    for change in ({"seed": 1}, {"epoch": 1}, {"step": 1}):
        assert not torch.equal(drawn_of(0.6, count=10, **change).cells, cells[:10])


def test_it_changes_no_other_draw_and_is_off_unless_asked_for():
    """Matrices and noise are those of a run without it."""
    assert drawn_of(0.0).cells is None
    assert torch.equal(drawn_of(0.5).matrices, drawn_of(0.0).matrices)
    assert drawn_of(0.5).noise_seed == drawn_of(0.0).noise_seed
    for share in (1.0, -0.1):
        with pytest.raises(UsageError, match="drop"):
            Augmentation(drop_tokens=share)


@pytest.mark.parametrize("kind", ["vit-xs", "attn-pool"])
@torch.no_grad()
def test_a_head_sees_the_kept_cells_at_their_own_positions(kind):
    """The transformer of the same tokens picked by hand; for attn-pool, attention masked."""
    spec = HeadSpec(kind, CHANNELS, 3, GRID, embedding_dim=6)
    head = build_head(spec, seed=0).eval()
    tokens, embeddings = torch.randn(4, *GRID, CHANNELS), torch.randn(4, 6)
    cells = drawn_of(0.5).cells
    embedded = head.embed(tokens.flatten(1, 2))
    beside = head.embed_sample(embeddings)
    if kind == "vit-xs":
        positioned = embedded + head.pos_embed[:, 1:]
        first = head.cls_token + head.pos_embed[:, :1] + beside[:, None]
        picked = torch.stack([one[row] for one, row in zip(positioned, cells, strict=True)])
        pooled = head.blocks(torch.cat([first, picked], dim=1))[:, 0]
    else:
        mask = torch.zeros(4, 1, 1, 15, dtype=torch.bool).index_put_(
            (torch.arange(4)[:, None], torch.tensor(0), torch.tensor(0), cells), torch.tensor(True)
        )
        pooled = AttentionPoolLatent.forward(head.pool, embedded + head.pos_embed, mask) + beside
    expected = head.classifier(head.norm(pooled))
    torch.testing.assert_close(head.classify(tokens, embeddings, cells), expected)
    everything = torch.arange(15).expand(4, -1)
    torch.testing.assert_close(
        head.classify(tokens, embeddings, everything), head.classify(tokens, embeddings)
    )


def test_a_run_with_it_resumes_exactly_and_old_configurations_stay(tmp_path):
    """The same weights after a stop; without it the frozen settings have no such key."""
    asked = options(augment=Augmentation(drop_tokens=0.5), epochs=2)
    one, other = store_of(tmp_path / "one.fungi"), store_of(tmp_path / "other.fungi")
    train_loff(one.root, asked)
    calls = iter(range(100))
    with pytest.raises(StoppedError):
        train_loff(other.root, asked, context=Context(stop=lambda: next(calls) >= 5))
    train_loff(other.root, asked)
    assert same(weights(one), weights(other))
    assert head_run(one, "set", "h").config()["options"]["augment"]["drop_tokens"] == 0.5
    train_loff(one.root, replace(asked, name="plain", epochs=1, augment=Augmentation()))
    assert "drop_tokens" not in head_run(one, "set", "plain").config()["options"]["augment"]
