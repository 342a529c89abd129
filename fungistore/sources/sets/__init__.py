"""Data sets by name, in the layouts that their archives have, with the splits that papers use."""
