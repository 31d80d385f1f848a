"""The ledger, what is drained into it, and the caps that gateways meet."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"

    def ready(self) -> None:
        """Hear of organizations and quotas, and tell prices: lower apps must not import billing, so it goes by lists."""
        from billing.caps.quotas import create_account, project_now
        from billing.sale.prices import everybodys
        from inference import price_list
        from tenants import events

        events.organization_created.append(create_account)
        events.quota_changed.append(project_now)
        price_list.readers.append(everybodys)
