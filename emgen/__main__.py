"""`python -m emgen` is the command line."""

from emgen.cli import main

main()
