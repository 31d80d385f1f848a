"""How many slow calls all organizations may have under way at the workers of one hardware."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from inference.slow import slow_places


class Slots(msgspec.Struct):
    """Of a worker's report (inference.reports.Report)."""

    hardware: str
    slots: int


DECODER = msgspec.json.Decoder(Slots)


class SlowTurns:
    """Until a worker is heard of there is one place."""

    def __init__(self) -> None:
        self._places: Counter[str] = Counter()  # by hardware

    def hear(self, reports: Sequence[bytes | None]) -> None:
        """Of all workers alive; None is one that has not told yet."""
        places: Counter[str] = Counter()
        for report in [DECODER.decode(report) for report in reports if report]:
            places[report.hardware] += slow_places(report.slots)
        self._places = places

    def turn(self, hardware: str) -> int:
        """Calls that are shared. Who is alone has half of them: all places, and one that waits for the next."""
        return 2 * (max(1, self._places[hardware]) + 1)
