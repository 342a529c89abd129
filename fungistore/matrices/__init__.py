"""Features as matrices: blocks side by side, exact neighbours, splits."""
