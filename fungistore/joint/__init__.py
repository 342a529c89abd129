"""Texts in the space of a store's embeddings, by the text side of the encoder that made them."""
