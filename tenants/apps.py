from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"

    def ready(self) -> None:
        """Stop the start on wrong key rings, offer the records of keys, and hear of passwords that were chosen by mail."""
        from allauth.account.signals import password_reset

        from tenants import crypto, keys, records, recovery

        crypto.ring()
        keys.peppers()
        records.makers["key"] = lambda name: keys.load_key(name.removeprefix("key:"))
        records.bulk_makers["key"] = keys.make_records
        password_reset.connect(recovery.begin_anew, dispatch_uid="begin anew")
