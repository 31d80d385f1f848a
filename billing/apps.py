"""The ledger, what is drained into it, and the caps that gateways meet."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"

    def ready(self) -> None:
        """Hear of new organizations and changed quotas: tenants must not import billing, so they are told by list."""
        from billing.quotas import create_account, project_now
        from tenants import events

        events.organization_created.append(create_account)
        events.quota_changed.append(project_now)
