"""Nearest-neighbour indexes: faiss over the features of a store, grown as the store grows."""
