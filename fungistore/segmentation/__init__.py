"""In-context segmentation: memory banks of labelled patches, and what they predict."""
