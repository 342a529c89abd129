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
MACHINES = "Machines"
TROUBLE = "What goes wrong"
PRICES = "Prices"
WORK = "Who does the work"
OTHER = "Options"
GENERAL = "General"

FIRST = (MODEL, FEATURES, VIEWS, MACHINES, TROUBLE, PRICES)  # in this order; others stand behind
LAST = (ROWS, SCORES, DATA, SPEED, STORAGE, WORK, OTHER, GENERAL)
