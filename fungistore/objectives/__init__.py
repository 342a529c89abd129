"""Self-supervised objectives whose per-sample gradients become features."""
