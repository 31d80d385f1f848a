"""Room for a gateway's connections: its open files, how many connections they carry, and which of these make way for others."""

import resource
from collections.abc import Collection
from typing import Protocol

MOST_FILES = 65_536  # that we ask for; macOS takes no more, and calls its own limit infinite
MOST_CONNECTIONS = 16_384  # of one process
BACKLOG = 2048
AT_ONCE = 16  # this part of all connections makes way at once: choosing looks at each of them


class Connection(Protocol):
    """What is used of saas.protocol.FrontProtocol."""

    def precedence(self) -> tuple[bool, float] | None:
        """Lower goes first: who has never sent a whole request, then who is quiet for longest. None: it is being answered."""

    def drop(self) -> None: ...


def raise_limit() -> None:
    """Let this process and its children open as many files as they may: a usual start is 1,024, which 1,000 clients fill."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """The rest of the open files is for our own, and for what the kernel hands over in one go (`backlog`)."""
    return min(_files() * 5 // 8, MOST_CONNECTIONS)


def backlog() -> int:
    return min(_files() // 8, BACKLOG)


def _files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def spare(connections: Collection[Connection]) -> list[Connection]:
    """Those that make way now, at least one if any may."""
    waiting = [(precedence, connection) for connection in connections if (precedence := connection.precedence()) is not None]
    waiting.sort(key=lambda found: found[0])
    return [connection for _, connection in waiting[: max(1, len(connections) // AT_ONCE)]]
