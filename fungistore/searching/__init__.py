"""Search: the nearest images of a store to an image file or to one of its samples."""
