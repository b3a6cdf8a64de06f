"""``python -m pararealize`` is the command line."""

from pararealize.cli.main import main

main()
