"""`python -m metier.cli`, where the command is not on the path."""

from metier.cli.app import main

main()
