"""Texts: sentences and documents, as people and data sets write them."""
