"""Who calls, and which model: from the presented key and a name to the records behind them."""

from inference.gateway.allowance import Allowance
from inference.gateway.records import Records
from inference.routes import ModelRoute, preferred
from saas.lib import errors
from saas.lib.names import is_name
from tenants import keys
from tenants.principal import KeyRecord

CATALOG = "catalog"  # slug of the organization that owns the public models
CALL_SCOPE = "predictions:write"


class Access:
    """Each question in two ways: at once from memory, or, where memory says None, with a wait for who knows."""

    def __init__(self, records: Records) -> None:
        self._records, self._allowance = records, Allowance()

    def allow(self, key: KeyRecord) -> None:
        """Count a piece of work that comes before admission. Raises RateLimited."""
        self._allowance.take(key)

    def principal(self, presented: str) -> KeyRecord | None:
        """The key behind `presented`, if memory knows it; None: ask fetch_principal. Raises ApiKeyInvalid."""
        public_id = keys.parse(presented)
        if public_id is None:
            raise errors.ApiKeyInvalid()
        known, record = self._records.get(f"key:{public_id}")
        return _verified(record, presented) if known else None

    def is_current(self, record: KeyRecord) -> bool:
        """Whether `record` is still what memory knows of its key, and the key can be used."""
        known, now = self._records.get(f"key:{record.public_id}")
        return known and now is record and keys.is_usable(record)

    async def fetch_principal(self, presented: str, address: str = "") -> KeyRecord:
        """The same, asking memory, the lanes server and then PostgreSQL, which is limited for keys never seen here.

        Raises ApiKeyInvalid, RateLimited, Unavailable.
        """
        public_id = keys.parse(presented)
        if public_id is None:
            raise errors.ApiKeyInvalid()
        name = f"key:{public_id}"
        if self._records.has_seen(name):
            return _verified(await self._records.fetch(name), presented)
        self._allowance.take_stranger(address)
        try:
            record = await self._records.fetch(name)
        except errors.Unavailable:
            self._allowance.give_stranger_back(address)
            raise
        if record is not None:
            self._allowance.give_stranger_back(address)
        return _verified(record, presented)

    def route(self, key: KeyRecord, owner: str | None, name: str, *, scope: str = CALL_SCOPE) -> ModelRoute | None:
        """The model that `key` calls `name` or `owner/name`, if memory knows; None: ask fetch_route.

        A name without owner is the organization's own model, else the catalogue's (inference.routes.preferred).
        Raises ScopeMissing, ModelNotAllowed and NotFound: another organization's private model does not exist.
        """
        found: ModelRoute | None = None
        for record_name in _route_names(key, owner, name, scope):
            known, route = self._records.get(record_name)
            if not known:
                return None
            found = preferred(found, route)
            if found is not None and found.is_callable:
                break
        return _allowed(key, found, owner, name)

    async def fetch_route(self, key: KeyRecord, owner: str | None, name: str, *, scope: str = CALL_SCOPE) -> ModelRoute:
        """The same, asking memory, the lanes server and then PostgreSQL. Raises Unavailable too."""
        found: ModelRoute | None = None
        for record_name in _route_names(key, owner, name, scope):
            found = preferred(found, await self._records.fetch(record_name))
            if found is not None and found.is_callable:
                break
        return _allowed(key, found, owner, name)


def check_scope(key: KeyRecord, scope: str) -> None:
    """Raises ScopeMissing."""
    if scope not in key.scopes:
        raise errors.ScopeMissing(f"The key has no scope {scope}; give it one, or use another key")


def _verified(record: KeyRecord | None, presented: str) -> KeyRecord:
    if record is None:
        keys.verify_nothing(presented)
        raise errors.ApiKeyInvalid()
    keys.verify(record, presented)
    return record


def _route_names(key: KeyRecord, owner: str | None, name: str, scope: str) -> tuple[str, ...]:
    check_scope(key, scope)
    if not is_name(name) or not (owner is None or is_name(owner)):
        raise errors.NotFound(_no_model(owner, name))  # nothing is asked for what cannot exist
    own = f"route:own:{key.organization}:{name}"
    if owner is None:
        return (own, f"route:public:{CATALOG}:{name}")
    return (own,) if owner == key.slug else (f"route:public:{owner}:{name}",)


def _allowed(key: KeyRecord, route: ModelRoute | None, owner: str | None, name: str) -> ModelRoute:
    if route is None:
        raise errors.NotFound(_no_model(owner, name))
    if not key.may_call(route.full_name, route.name):
        raise errors.ModelNotAllowed(f"The key may not call {route.full_name}; its allow-list names other models")
    return route


def _no_model(owner: str | None, name: str) -> str:
    return f"There is no model {owner}/{name}" if owner else f"There is no model {name}"
