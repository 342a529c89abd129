"""LOFF-TA: a compact classifier trained on cached patch tensors with tensor augmentations."""
