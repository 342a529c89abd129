"""A file of sound that is decoded in one go, by soundfile; imported where one is decoded."""

from __future__ import annotations

import soundfile

SoundFileError = soundfile.LibsndfileError


class StraightFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile is not typed
    """A SoundFile that stays where a read has ended.

    soundfile seeks there after each read, if it can. A decoder of MPEG begins anew then, and lacks
    the bits of the frames before: the first samples of each block would be wrong.
    """

    def seekable(self) -> bool:
        """Say no, so that reads do not seek; `seek` works all the same."""
        return False
