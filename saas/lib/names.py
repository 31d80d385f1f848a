"""Names that appear in URLs: organization slugs, models, aliases."""

import re

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_NAME = re.compile(NAME_PATTERN.replace("$", r"\Z"))

_WORDS = """
admin aliases api cancel config docs events explain generate health index infer live livez load metadata metrics model models
predict prediction predictions ready readyz repository rollback static stats trace unload v1 v2 versions _allauth
"""
ROUTE_WORDS = frozenset(_WORDS.split())
"""Words of the route grammar: as a name they would make a URL ambiguous."""


def is_model_name(text: str) -> bool:
    """True for `name` and `organization/name`, as a caller names a model."""
    owner, slash, name = text.partition("/")
    return is_name(owner) and (not slash or is_name(name))


def is_name(text: str) -> bool:
    """True for what may name an organization, a model or an alias."""
    return bool(_NAME.match(text)) and text not in ROUTE_WORDS
