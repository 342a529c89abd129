"""Speech Commands, version 0.02: one spoken word of 35 a clip.

Layout: the archive, which unpacks into no folder of its own. What its two lists do not name is
training, as its README says; recordings of noise are no samples.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.modalities.modality import AUDIO
from fungistore.sources.sets.class_folders import files_in
from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_lines
from fungistore.sources.sets.place import Place

_ARCHIVE = "from speech_commands_v0.02.tar.gz"
_LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
_HIDDEN = ("_", ".")  # how _background_noise_ begins, and what systems make


class SpeechCommands(ImageSet):
    """Speech Commands; version 0.01 lies in the same way, with fewer words."""

    data_set = DataSet(
        name="speech-commands",
        title="Speech Commands 0.02",
        splits={"train": 84_843, "val": 9981, "test": 11_005},
        classes=35,
        bytes=3_400_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                dict.fromkeys((*_LISTS.values(), "yes/"), _ARCHIVE),
                ("speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02"),
            ),
        ),
        split_rule="official (validation_list.txt, testing_list.txt)",
        metric="top-1 accuracy",
        papers=(FUNGI,),
        terms="CC BY 4.0",
        page="https://arxiv.org/abs/1804.03209",
        modality=AUDIO,
    )

    def classes(self, place: Place) -> list[str]:
        """Return the words, sorted."""
        folders = (entry.name for entry in place.root.iterdir() if entry.is_dir())
        return sorted(name for name in folders if not name.startswith(_HIDDEN))

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, word by word, then val and test, each in the order of its list."""
        lists = {split: read_lines(place.root / file) for split, file in _LISTS.items()}
        listed = {path for paths in lists.values() for path in paths}
        for word in self.classes(place):
            for path in files_in(place.root, word, (".wav",)):
                if path not in listed:
                    yield Row(path, word, "train")
        for split, paths in lists.items():
            for path in paths:
                word, _ = path.split("/")
                yield Row(path, word, split)
