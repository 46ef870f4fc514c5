"""`python -m worker` is `postlane`."""

from worker.cli import main

main()
