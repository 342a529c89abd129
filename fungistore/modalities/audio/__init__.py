"""Recordings: from their files to filter banks, and the views that are made of those."""
