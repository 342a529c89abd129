"""timm's plain vision transformers as encoders."""
