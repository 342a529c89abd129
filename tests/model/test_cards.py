"""Cards of timm's models from a file: true, of this very timm, and quick to have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fungistore.backbones.catalogue import describe_backbones, find_backbones
from fungistore.backbones.timm_vit import cards
from fungistore.backbones.timm_vit.catalogue import describe_models, list_models

ROOT = Path(__file__).parents[2]
MAKE = "python -m fungistore.backbones.timm_vit.catalogue"
SMALL = ["test_vit", "deit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k"]
CONVOLUTIONAL = ["test_resnet", "resnet18.a1_in1k"]
ODD = ["vit_small_patch16_18x2_224", "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"]


def test_the_list_of_the_package_is_of_the_pinned_timm() -> None:
    """Whoever raises the pin makes it anew."""
    (pin,) = [x for x in (ROOT / "constraints.txt").read_text().split() if x.startswith("timm==")]
    with cards.SHIPPED.open() as file:
        assert file.readline().split()[:2] == ["timm", pin.removeprefix("timm==")], MAKE


def test_the_list_has_what_timm_has() -> None:
    """All names but of models without an embedding, and of some the card read off the model."""
    known = cards.read_cards()
    missing = [name for name in list_models() if name not in known]
    assert list(known) == [name for name in list_models() if name in known], MAKE
    assert all("_enc" in name for name in missing), MAKE  # such give no embedding
    assert None not in known.values()
    some = SMALL + ODD + CONVOLUTIONAL
    assert [known[name] for name in some] == list(describe_models(some)), MAKE


@pytest.mark.slow
def test_every_card_of_the_list_is_what_timm_gives() -> None:
    known = cards.read_cards()
    missing = [name for name in list_models() if name not in known]
    assert list(describe_models(missing)) == [], MAKE
    assert list(known.values()) == list(describe_models(list(known))), MAKE


@pytest.fixture
def another_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As if timm were one that no list is of; the folder of the user's cache."""
    monkeypatch.setattr(cards, "stamp", lambda: "timm 99.0 0123456789abcdef")
    monkeypatch.setenv("FUNGI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_of_another_timm_the_models_are_asked_once_and_kept(another_timm: Path) -> None:
    """What was asked for is in the user's cache; the rest has its name there, and no card yet."""
    assert cards.read_cards() == {}
    assert SMALL[1] in find_backbones("deit_tiny*")
    (card,) = describe_backbones([SMALL[1]])
    known = cards.read_cards()
    assert known[SMALL[1]] == card
    assert list(known) == list_models()
    assert sum(card is not None for card in known.values()) == 1
    list(describe_backbones([SMALL[0]]))
    assert sum(card is not None for card in cards.read_cards().values()) == 2


def test_what_was_kept_of_one_timm_is_nothing_for_another(
    another_timm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(describe_backbones([SMALL[0]]))
    (kept,) = another_timm.iterdir()
    monkeypatch.setattr(cards, "stamp", lambda: "timm 99.0 another digest")
    assert cards.read_cards() == {}
    kept.rename(cards._cached())  # a file of the right name counts as little
    assert cards.read_cards() == {}


def test_a_cache_that_is_damaged_or_cannot_be_written_changes_nothing(another_timm: Path) -> None:
    another_timm.mkdir()
    cards._cached().write_text(f"{cards.stamp()}\nname,parameters\ntest_vit,many\n")
    assert SMALL[0] in find_backbones("test_vit")
    cards._cached().unlink()
    another_timm.rmdir()
    another_timm.write_text("no folder")
    assert [card.name for card in describe_backbones([SMALL[0]])] == [SMALL[0]]


def test_who_has_no_home_has_no_file_and_all_models(
    another_timm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNGI_CACHE", "~nobody-of-this-name/cache")
    assert SMALL[0] in find_backbones("test_vit")
    assert [card.name for card in describe_backbones([SMALL[0]])] == [SMALL[0]]


def test_the_list_needs_neither_torch_nor_timm() -> None:
    """Which take seconds to import."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from fungi_cli.main import app\n"
        "assert CliRunner().invoke(app, ['models', 'dinov2']).exit_code == 0\n"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
