"""Looking at something again and again while something else goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def meanwhile(look: Callable[[], None], every: float) -> Iterator[None]:
    """Call `look` in a thread each `every` seconds, the first time after as long, until the context is left."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(every):
            look()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
