"""``python -m gfopt``, which is the command ``gfopt``."""

from gfopt.cli.main import main

if __name__ == "__main__":
    main()
