"""What the lanes have just refused because too much work waits: it is refused again at once, and asks nobody."""

from inference.gateway import refusals
from inference.gateway.call import Call
from saas.lib.errors import AppError

HELD_SECONDS = 0.02  # too short for a full lane to run empty meanwhile
LANES_FIRST_SECONDS = 1.0
MAX_KNOWN = 10_000


class Crowding:
    """`now` is the loop's time."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, float, int]] = {}  # version → until when, expected ms, wait in ms
        self._lanes_first: dict[str, float] = {}  # organization or version → until when

    def note(self, call: Call, reason: str, wait_ms: int, now: float) -> None:
        """The lanes refused `call`: its organization's limits, or, if the reason is `lane`, too much work."""
        if call.is_low:
            return
        version, organization = call.version.id, call.key.organization
        self._lanes_first[version if reason == "lane" else organization] = now + LANES_FIRST_SECONDS
        if reason == "lane":
            self._held[version] = (now + HELD_SECONDS, call.expected_ms, wait_ms)
        for known in (self._held, self._lanes_first):
            if len(known) > MAX_KNOWN:
                known.clear()

    def refusal(self, call: Call, now: float) -> AppError | None:
        """Why `call` is refused without asking, if it is: one that is no smaller was refused just now.

        One with an Idempotency-Key is asked for, since its answer may be stored.
        """
        if not self._held or call.is_low or call.idempotency_key is not None:
            return None
        held = self._held.get(call.version.id)
        if held is None or held[0] <= now or call.expected_ms < held[1]:
            return None
        return refusals.of_lanes(call.key, "lane", held[2])

    def asks_lanes_first(self, call: Call, now: float) -> bool:
        """While the lanes refuse calls like it, it does not burden the books."""
        known = self._lanes_first
        return bool(known) and max(known.get(call.key.organization, 0.0), known.get(call.version.id, 0.0)) > now
