"""``python -m commonroot``."""

from commonroot.cli import main

main()
