"""`python -m fungi_cli` is `fungi`."""

from .main import main

main()
