"""Encoders of the open_clip package: image sides, and the text sides that go with them."""
