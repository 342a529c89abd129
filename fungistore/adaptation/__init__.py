"""Adapting a backbone: training on images, of all its weights or of a few beside them."""
