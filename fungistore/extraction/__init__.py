"""The extraction stage: samples in, features out, resumable."""
