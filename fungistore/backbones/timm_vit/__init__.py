"""timm's models as encoders."""
