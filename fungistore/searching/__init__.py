"""Search: the nearest samples of a store to an image file, another item, or one of its own."""
