from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"

    def ready(self) -> None:
        """Stop the start on wrong key rings, and offer the records of keys."""
        from tenants import crypto, keys, records

        crypto.ring()
        keys.peppers()
        records.makers["key"] = lambda name: keys.load_key(name.removeprefix("key:"))
        records.bulk_makers["key"] = keys.make_records
