"""`python -m l2snet`, the same as the command `l2snet`."""

from l2snet.cli import main

main()
