"""`fungi annotate`: masks of a store's images, from their files into the store."""
