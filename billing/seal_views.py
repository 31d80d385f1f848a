"""What a bill is checked by, over HTTP."""

import base64

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from saas.lib.signing import signing_keys
from tenants.permissions import SIGNED_IN
from tenants.views import ManagementView


class SigningKeysView(ManagementView):
    required_scope = SIGNED_IN

    @extend_schema(
        summary="The public keys of receipts and seals",
        description="All versions that ever signed; keep them: with them a receipt can be checked without us.",
        responses=OpenApiTypes.OBJECT,
    )
    def get(self, request: Request) -> Response:
        keys = signing_keys()
        shown = [
            {"version": version, "algorithm": "Ed25519", "public_key": base64.b64encode(key).decode()}
            for version, key in keys.public().items()
        ]
        return Response({"current": keys.current, "keys": shown})
