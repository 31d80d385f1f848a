"""Which of customers' processes must end so that all fit into the budget. It decides; who asks does it.

Idle ones go first, the least recently used before others. For a load no busy one ever goes: then the load is refused. One that
grows while it runs may hold what is free; beyond that it is ended itself, and no other that holds what it was given.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from inference.engine.budget import Budget, Taken
from inference.engine.errors import MemoryExhausted


class Process(Protocol):
    """`taken` are the bytes that it counts: what it was given or, if that is more, what it holds; `excess` is how much more."""

    owner: str
    last_used: float

    @property
    def is_busy(self) -> bool: ...

    @property
    def taken(self) -> int: ...

    @property
    def excess(self) -> int: ...


P = TypeVar("P", bound=Process)


def room_for(needed: int, owner: str, kept: P | None, processes: Sequence[P], others: Taken, budget: Budget) -> list[P]:
    """The idle processes that must end so that `owner` can take `needed` bytes more, in `kept` if given.

    Raises MemoryExhausted: then none needs to end.
    """
    if needed > budget.share:
        raise MemoryExhausted(f"the model needs {_mib(needed)} to be loaded; an organization may have {_mib(budget.share)}")
    idle = [process for process in _idle(processes) if process is not kept]
    own = [process for process in processes if process.owner == owner]
    leaving = _first(_total(own) + needed - budget.share, [process for process in idle if process.owner == owner])
    if _total(own) - _total(leaving) + needed > budget.share:
        raise MemoryExhausted(
            f"the organization's models have their {_mib(budget.share)} of memory, and are busy; this one needs {_mib(needed)}"
        )
    rest = [process for process in idle if process not in leaving]
    over = _total(processes) - _total(leaving) + others.bytes + needed - budget.limit
    leaving += _first(over, rest)
    lacking = _total(processes) - _total(leaving) + others.bytes + needed - budget.limit
    if lacking > 0:
        raise MemoryExhausted(f"no memory is free for the model now; it needs {_mib(needed)}", lacking=lacking)
    return leaving


def overgrown(processes: Sequence[P], others: Taken, budget: Budget) -> tuple[list[P], list[tuple[P, str]]]:
    """The processes that must end, because more is held than there is: idle ones, and busy ones with the reason."""
    idle: list[P] = []
    busy: list[tuple[P, str]] = []
    why = f"the organization's processes held more memory than the {_mib(budget.share)} that it may have"
    for owner in {process.owner for process in processes}:
        own = [process for process in processes if process.owner == owner]
        leaving, grown = _until_fits(_total(own) - budget.share, own)
        idle += leaving
        busy += [(process, why) for process in grown]
    gone = [*idle, *(process for process, _ in busy)]
    staying = [process for process in processes if process not in gone]
    over = _total(staying) + others.bytes - budget.limit
    leaving, grown = _until_fits(over, staying, wanted=others.wanted)
    why = "the model took more memory while it ran than was free"
    return idle + leaving, busy + [(process, why) for process in grown if process.excess >= others.excess]


def _until_fits(over: int, processes: Sequence[P], *, wanted: int = 0) -> tuple[list[P], list[P]]:
    """Idle ones until `over` and `wanted` bytes are free; if `over` are not, then busy ones, those that grew most."""
    leaving = _first(max(0, over) + wanted, _idle(processes))
    grown = [process for process in processes if process.is_busy and process.excess and process not in leaving]
    return leaving, _first(over - _total(leaving), sorted(grown, key=lambda process: -process.excess))


def _idle(processes: Sequence[P]) -> list[P]:
    """The least recently used first."""
    return sorted((process for process in processes if not process.is_busy), key=lambda process: process.last_used)


def _first(needed: int, processes: Sequence[P]) -> list[P]:
    """As many, from the first on, as have `needed` bytes together, or all."""
    chosen: list[P] = []
    for process in processes:
        if needed <= 0:
            break
        chosen.append(process)
        needed -= process.taken
    return chosen


def _total(processes: Sequence[P]) -> int:
    return sum(process.taken for process in processes)


def _mib(size: int) -> str:
    return f"{-(-size >> 20)} MiB"
