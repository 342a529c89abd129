"""What flags stand under in a command's help, where several commands share it."""

from __future__ import annotations

MODEL = "Model"
FEATURES = "Features"
VIEWS = "Views and objectives"
ROWS = "Train and test rows"
SCORES = "Scores"
DATA = "Data"
SPEED = "Speed"
STORAGE = "Storage"
WORK = "Who does the work"
OTHER = "Options"
GENERAL = "General"

FIRST = (MODEL, FEATURES, VIEWS)  # in this order; a command's own stand between them and the last
LAST = (ROWS, SCORES, DATA, SPEED, STORAGE, WORK, OTHER, GENERAL)
