"""`python -m moltpipe` is the `moltpipe` command."""

from moltpipe.cli import main

main()
