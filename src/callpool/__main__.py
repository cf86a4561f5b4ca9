"""`python -m callpool`."""

from callpool.cli import main

main()
