"""Images: decoded, turned upright, cut and resized."""
