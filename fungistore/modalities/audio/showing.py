"""A recording in a page: a player of its first seconds, and the outline of the whole."""

from fungistore.modalities.audio.recording import Recording


def show(item: Recording, caption: str) -> str:
    """Return HTML."""
    return f"<audio title='{caption}'>"
