"""Per-sample gradients of a frozen backbone's target layer, and their random projection."""
