"""The shape of GET /limits (billing.caps.limits.limits_of), for the API reference."""

from rest_framework import serializers


class RateOut(serializers.Serializer):  # type: ignore[type-arg]  # this and those below are bound to no model
    per_second = serializers.FloatField()
    burst = serializers.IntegerField()
    left = serializers.IntegerField(help_text="Requests that may come at once just now.")
    full_in_seconds = serializers.FloatField(help_text="Until `left` is `burst` again, without requests.")


class CountOut(serializers.Serializer):  # type: ignore[type-arg]
    limit = serializers.IntegerField()
    used = serializers.IntegerField()
    left = serializers.IntegerField()


class QuotaOut(serializers.Serializer):  # type: ignore[type-arg]
    limit = serializers.IntegerField(
        allow_null=True,
        help_text="The lower of the quota and, where the plan ends with them, its included calls; null: neither.",
    )
    used = serializers.IntegerField(allow_null=True, help_text="Calls under way included; null while it is not known.")
    left = serializers.IntegerField(allow_null=True)
    resets_at = serializers.DateTimeField()


class SizeOut(serializers.Serializer):  # type: ignore[type-arg]
    limit = serializers.IntegerField()


class PaceOut(serializers.Serializer):  # type: ignore[type-arg]
    rate = RateOut()
    concurrency = CountOut(help_text="Requests under way.")


class LevelOut(PaceOut):
    monthly_calls = QuotaOut()


class OrganizationLevelOut(LevelOut):
    """What reaches its limit is refused with `limit_reached`."""

    test_keys = PaceOut(help_text="What all test keys share. Their calls take nothing from the organization's own.")
    keys = CountOut(help_text="API keys that are neither revoked nor expired.")
    members = CountOut()
    invitations = CountOut(help_text="Open ones.")
    models = CountOut()
    versions_per_model = CountOut(help_text="`used` is the fullest model's.")
    validating = CountOut(help_text="Versions without a verdict.")
    aliases_per_model = CountOut(help_text="`used` is the fullest model's.")
    artifact_bytes = SizeOut(help_text="Bytes of one artifact.")
    stored_bytes = CountOut(help_text="Bytes of all artifacts together.")
    data_bytes = CountOut(help_text="Bytes of kept inputs and answers.")


class KeyLevelOut(LevelOut):
    id = serializers.CharField()
    mode = serializers.CharField()


class LimitsLeftOut(serializers.Serializer):  # type: ignore[type-arg]
    organization = OrganizationLevelOut()
    key = KeyLevelOut(allow_null=True, help_text="Null for a person.")
