"""Requests that come at the same moment, each over a database connection of its own."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from django.db import connections


def at_once(*requests: Callable[[], Any]) -> list[Any]:
    """What each of them returns, in their order."""
    start = threading.Barrier(len(requests))

    def run(request: Callable[[], Any]) -> Any:
        start.wait(60)
        try:
            return request()
        finally:
            connections.close_all()  # of this thread

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(run, requests))


def one_wins(act: Callable[..., Any], contenders: Sequence[tuple[Any, ...]], *, won: int = 201, lost: int = 409) -> None:
    """Of all who `act(*contender)` at the same moment, for example for the last place, exactly one gets the status `won`."""
    answers = at_once(*(partial(act, *contender) for contender in contenders))

    assert statuses(answers) == [won] + [lost] * (len(contenders) - 1)


def statuses(answers: list[Any]) -> list[int]:
    return sorted(answer.status_code for answer in answers)
