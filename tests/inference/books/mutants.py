"""Broken versions of the books, each wrong in one way. The simulation must find each: that shows that it can fail."""

import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from billing.ledger import drain, writing
from inference.books import scripts
from inference.books.client import Books


class Mutant(NamedTuple):
    """`old` becomes `new` in a script or in the source of a function, which is called `name` in `owner`."""

    owner: Any
    name: str
    old: str
    new: str


MUTANTS = {
    "a close leaves its entry, so repeated it counts twice": Mutant(
        scripts, "BOOKS", "if #removed > 0 then redis.call('HDEL', session, unpack(removed)) end", ""
    ),
    "an open that is repeated charges again": Mutant(
        scripts, "BOOKS", "if not there[i] then new[#new + 1] =", "if true then new[#new + 1] ="
    ),
    "a call that failed keeps its charge": Mutant(
        scripts, "BOOKS", "drop_claim(head[6], call)\n    charge_back(head)", "drop_claim(head[6], call)"
    ),
    "a call that failed keeps its claim": Mutant(scripts, "BOOKS", "drop_claim(head[6], call)\n    charge_back", "charge_back"),
    "the exact charge is not made exact": Mutant(scripts, "BOOKS", "if exact ~= head[4] and", "if false and"),
    "a limit lets one call too many pass": Mutant(scripts, "BOOKS", "if fits < n then n,", "if fits + 1 < n then n,"),
    "a plan includes any number of calls": Mutant(scripts, "BOOKS", "'limit:included:month:'", "'limit:nothing:month:'"),
    "a limit on money is not looked at": Mutant(scripts, "BOOKS", "[i] and 1 or maximum", "[i] and 1 or 0"),
    "the credit is counted by the month": Mutant(
        scripts, "BOOKS", "'limit:nano:ever:', 'nano:' .. ever,", "'limit:nano:ever:', 'nano:' .. month,"
    ),
    "the reaper does not fence": Mutant(scripts, "TAKE", "'RENAME', KEYS[1]", "'COPY', KEYS[1]"),
    "the reaper keeps the charges": Mutant(scripts, "REAP", "    charge_back(head)\n", ""),
    "a new connection does not fence the old one": Mutant(
        scripts, "SESSION", "'RENAME', KEYS[i], KEYS[1]", "'COPY', KEYS[i], KEYS[1]"
    ),
    "answers leave without a heartbeat": Mutant(Books, "may_answer", "self._clock() < self._answer_until", "True"),
    "the drain moves its position without comparing": Mutant(
        writing, "move_position", "AND position = %s", "AND position <> %s || 'x'"
    ),
    "the drain trims before it has committed": Mutant(
        drain.Drain, "take", "return Taken(", "self.position = entries[-1][0].decode()\n    self.trim()\n    return Taken("
    ),
    "the trim takes what is not in the ledger": Mutant(scripts, "TRIM", "ms, seq + 1", "ms + 1e6, seq + 1"),
    "a rebuild forgets the open calls": Mutant(scripts, "REBUILD", "add_open('open:' .. session)", "add_open('none')"),
    "a rebuild forgets the journal": Mutant(scripts, "REBUILD", "or not add_journal()", ""),
    "a rebuild overlooks that the journal was trimmed": Mutant(scripts, "REBUILD", "if not is_whole() or", "if"),
}


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """As long as it lasts, the mutant is in the place of the real part."""
    undo = _break_script(mutant) if isinstance(getattr(mutant.owner, mutant.name), scripts.Script) else _break_function(mutant)
    try:
        yield
    finally:
        undo()


def _break_script(mutant: Mutant) -> Callable[[], None]:
    script = getattr(mutant.owner, mutant.name)
    real = script.source, script.sha
    script.source = _changed(script.source.decode(), mutant).encode()
    script.sha = hashlib.sha1(script.source).hexdigest()

    def undo() -> None:
        script.source, script.sha = real

    return undo


def _break_function(mutant: Mutant) -> Callable[[], None]:
    real = getattr(mutant.owner, mutant.name)
    names: dict[str, Any] = {}
    exec(_changed(textwrap.dedent(inspect.getsource(real)), mutant), real.__globals__, names)
    setattr(mutant.owner, mutant.name, names[mutant.name])
    return lambda: setattr(mutant.owner, mutant.name, real)


def _changed(source: str, mutant: Mutant) -> str:
    assert source.count(mutant.old) == 1, f"{mutant.name} does not have {mutant.old!r} once"
    return source.replace(mutant.old, mutant.new)
