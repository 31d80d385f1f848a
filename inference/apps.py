from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"

    def ready(self) -> None:
        """Offer the records of routes to gateways."""
        from inference import registry
        from tenants import records

        records.makers["route"] = registry.make_record
        records.bulk_makers["route"] = registry.make_records
