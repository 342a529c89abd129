"""Training: the loop, its checkpoints and its followers, whatever it is that is trained."""
