"""What models cost everybody, as the price book says. The book is billing's, which this must not import: it is told by list."""

from collections.abc import Callable, Collection
from uuid import UUID

from saas.lib.prices import Price

readers: list[Callable[[Collection[UUID]], dict[UUID, list[Price]]]] = []
"""Takes ids of models; by id, the prices in force or to come, oldest start first. Called in any tenant's transaction."""


def of_models(models: Collection[UUID]) -> dict[UUID, list[Price]]:
    """By model; one that is not in it has no price."""
    found: dict[UUID, list[Price]] = {}
    for read in readers if models else []:
        found |= read(models)
    return found
