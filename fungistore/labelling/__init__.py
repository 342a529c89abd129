"""`fungi label`: labels, splits and other columns of samples that a store has, by id."""
