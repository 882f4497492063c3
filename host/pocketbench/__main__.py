"""`python -m pocketbench` is `bench`."""

from __future__ import annotations

from pocketbench.cli.main import main

main()
