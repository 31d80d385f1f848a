"""What higher apps are told about tenants, since imports point one way only.

A higher app appends its function in its `AppConfig.ready`. All are called after the commit and before the response.
"""

from collections.abc import Callable
from uuid import UUID

organization_created: list[Callable[[UUID], None]] = []
"""(organization id)"""

quota_changed: list[Callable[[UUID], None]] = []
"""(organization id): a monthly number of calls of the organization or of one of its keys was set, changed or removed."""
