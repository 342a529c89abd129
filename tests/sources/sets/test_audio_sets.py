"""ESC-50 and Speech Commands by name: official folds and lists, and what does not fit them."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_sets import lines, write_cub, write_esc50, write_speech_commands

import fungistore as fungi
from fungistore.errors import UsageError
from fungistore.sources.opening import open_source
from fungistore.sources.sample import columns_of, source_remarks
from fungistore.store.listing import add_source
from fungistore.store.store import Store


@pytest.mark.parametrize(("name", "fold"), [("esc50", 1), *((f"esc50-fold{n}", n) for n in (2, 5))])
def test_one_fold_of_esc50_is_the_test_split(name: str, fold: int, tmp_path: Path) -> None:
    """Train comes first, classes are in the order of their numbers, and folds are kept."""
    source = open_source(f"{name}:{write_esc50(tmp_path)}", modality="audio")
    samples = list(source)
    assert source.label_names() == ["dog", "rooster"]
    assert columns_of(source) == {"fold": "int"}
    tested = [sample for sample in samples if sample.split == "test"]
    assert samples[8:] == tested
    assert [(s.id, s.label, s.cells) for s in tested] == [
        (f"audio/{fold}-101-A-1.wav", "rooster", (fold,)),
        (f"audio/{fold}-100-A-0.wav", "dog", (fold,)),
    ]
    assert all(sample.bytes for sample in samples)
    said = f"{name}: 10 recordings listed, 2000 published (train 8/1600, test 2/400)"
    assert source_remarks(source) == [said]


def test_another_fold_changes_the_splits_of_a_store_alone(tmp_path: Path) -> None:
    """Ids, places and digests stay: no feature is made anew for a cross-validation."""
    write_esc50(tmp_path)
    store = Store.open_or_create(tmp_path / "s.fungi")
    add_source(store, open_source(f"esc50:{tmp_path}", modality="audio"), "audio")
    before = Store.open(tmp_path / "s.fungi").samples.rows_of_split("test").tolist()
    again = add_source(store, open_source(f"esc50-fold4:{tmp_path}", modality="audio"), "audio")
    after = Store.open(tmp_path / "s.fungi").samples.rows_of_split("test").tolist()
    assert (again.added, before, after) == (0, [8, 9], [4, 5])


def test_words_are_split_by_the_official_lists(tmp_path: Path) -> None:
    """What no list names is training; noise and notes are no samples; a missing clip is said."""
    root = write_speech_commands(tmp_path)
    (root / "yes/a_nohash_0.wav").unlink()
    source = open_source(f"speech-commands:{root}", modality="audio")
    train = [(f"{word}/{n}_nohash_0.wav", word) for word, names in (("no", "acd"), ("yes", "cd"))
             for n in names]  # fmt: skip
    assert [(s.id, s.label) for s in source if s.split == "train"] == train
    assert [(s.id, s.split) for s in source if s.split != "train"] == [
        ("yes/b_nohash_0.wav", "val"),
        ("no/b_nohash_0.wav", "val"),
        ("yes/a_nohash_0.wav", "test"),
    ]
    assert source.label_names() == ["no", "yes"]
    assert "speech-commands: 1 listed recording not there: yes/a_nohash_0.wav" in source_remarks(
        source
    )


def test_a_set_of_sounds_is_checked_as_sounds(tmp_path: Path) -> None:
    """The check opens it as what it is, and says what differs."""
    write_esc50(tmp_path)
    found = fungi.check_data_set("esc50", tmp_path)
    assert (found.images, found.classes, found.missing) == (10, 2, 0)
    assert "esc50: 2 classes with recordings, 50 published" in found.differences
    facts = {one.name: one for one in fungi.list_data_sets()}
    assert facts["esc50"].images == 2000
    assert facts["speech-commands"].images == 105_829
    assert facts["speech-commands"].to_json()["modality"] == "audio"


def test_a_set_is_refused_by_a_model_of_another_modality(tmp_path: Path) -> None:
    """Before two thousand files are said to be no images, or the other way round."""
    write_esc50(tmp_path)
    with pytest.raises(UsageError, match="ESC-50 is a set of recordings, and the model takes im"):
        open_source(f"esc50:{tmp_path}")
    write_cub(tmp_path)
    with pytest.raises(UsageError, match="is a set of images, and the model takes recordings"):
        open_source(f"cub:{tmp_path}", modality="audio")


def test_damaged_lists_of_sounds_say_where(tmp_path: Path) -> None:
    """A fold that is no number, a path with a way out."""
    root = write_esc50(tmp_path)
    text = lines("filename,fold,target,category", "a.wav,one,0,dog")
    (root / "meta/esc50.csv").write_text(text)
    with pytest.raises(UsageError, match="lists of ESC-50 cannot be used"):
        list(open_source(f"esc50:{root}", modality="audio"))
    root = write_speech_commands(tmp_path)
    (root / "testing_list.txt").write_text("../secret.wav\n")
    with pytest.raises(UsageError, match=r"lists of Speech Commands 0\.02 cannot be used"):
        list(open_source(f"speech-commands:{root}", modality="audio"))


def test_a_root_that_is_given_as_a_folder_of_sounds_is_told(tmp_path: Path) -> None:
    """The folder reader would take its parts for classes."""
    root = write_speech_commands(tmp_path)
    (said,) = source_remarks(open_source(str(root), modality="audio"))
    assert f"fungi extract speech-commands:{root}" in said
