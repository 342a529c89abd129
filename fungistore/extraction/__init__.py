"""The extraction stage: images in, features out, resumable."""
