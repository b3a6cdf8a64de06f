"""``python -m pararealize`` is the command line."""

from pararealize.cli import main

main()
