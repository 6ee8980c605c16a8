"""Runs a program that ends with its parent, however that ends.

    python watched.py PROGRAM ARGUMENTS

It needs the standard library only. Its standard input is a pipe that nobody writes to:
the end of the pipe is the parent's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    """Returns the program's exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end() -> None:
        while os.read(0, 1):
            pass
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=end, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
