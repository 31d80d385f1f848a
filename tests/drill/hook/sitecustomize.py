"""Python runs this at the start of each process of a drilled service: PYTHONPATH names this folder."""

from tests.drill import taps

taps.install()
