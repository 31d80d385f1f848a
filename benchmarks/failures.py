"""What a system can do wrong, and how the benchmark tells of its progress."""

import sys
import time


class Failed(Exception):
    """A system could not be installed, started or measured, or answered wrongly; the message says what was seen."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} ▸ {text}", file=sys.stderr, flush=True)
