"""Customers as they come: they sign up, make keys and upload models over HTTP, with nothing but requests."""

import json
import secrets
import time

import numpy as np
import onnx
import requests
from onnx import TensorProto, helper

from saas.lib.ids import parse_id
from tests.service import Service
from tests.waiting import PATIENCE, until


def model_bytes(nodes, inputs, outputs, *, initializers=(), opset=17) -> bytes:
    """A checked ONNX model. `inputs` and `outputs`: (name, TensorProto type, shape) each."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        initializer=list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def identity_model() -> bytes:
    """y = x for (n, 3) float32: the answer shows whose request it was."""
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], np.zeros(1, "f4"))
    return model_bytes(
        [helper.make_node("Add", ["x", "zero"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 3])],
        [("y", TensorProto.FLOAT, ["n", 3])],
        initializers=[zero],
    )


class Customer:
    """One organization, just signed up. `organization` is its id as 32 hexadecimal digits."""

    def __init__(self, service: Service) -> None:
        self.service, self.base_url = service, service.base_url
        self.email = f"{secrets.token_hex(6)}@example.org"
        body = {"email": self.email, "password": secrets.token_urlsafe(16)}
        made = until(lambda: self._signed_up(body), seconds=2 * PATIENCE, what="a sign-up")
        self.session = {"X-Session-Token": made.json()["meta"]["session_token"]}
        organization = self.get("organization").json()
        self.slug, self.organization = organization["slug"], parse_id("org", organization["id"]).hex

    def _signed_up(self, body: dict[str, str]) -> requests.Response | None:
        """None while too many have signed up from here within a minute."""
        made = requests.post(f"{self.base_url}/_allauth/app/v1/auth/signup", json=body, timeout=PATIENCE)
        assert made.status_code in (200, 429), made.text
        if made.status_code == 429:
            time.sleep(1)  # it is asked again no more often than a client would
            return None
        return made

    def get(self, path: str, **options) -> requests.Response:
        return requests.get(f"{self.base_url}/api/v1/{path}", headers=self.session, timeout=PATIENCE, **options)

    def post(self, path: str, **options) -> requests.Response:
        return requests.post(f"{self.base_url}/api/v1/{path}", headers=self.session, timeout=PATIENCE, **options)

    def key(self, **body) -> str:
        scopes = ["predictions:write", "predictions:read", "models:read", "models:write", "usage:read", "limits:read"]
        made = self.post("keys", json={"name": "test", "scopes": scopes} | body)
        assert made.status_code == 201, made.text
        return made.json()["key"]

    def upload(self, name: str, artifact: bytes, manifest: dict | None = None, *, state: str = "ready") -> dict:
        """Make the model if it is not there, upload a version, wait for its verdict."""
        made = self.post("models", json={"name": name})
        assert made.status_code in (201, 409), made.text
        data = {"manifest": json.dumps(manifest)} if manifest else {}
        sent = self.post(f"models/{name}/versions", files={"artifact": ("model.onnx", artifact)}, data=data)
        assert sent.status_code == 202, sent.text
        version = sent.json()
        url = f"models/{name}/versions/{version['version']}"
        version = until(lambda: found if (found := self.get(url).json())["state"] != "validating" else None, what=url)
        assert version["state"] == state, version
        return version

    def unlimited(self) -> "Customer":
        """What an operator may grant: limits that no test meets, and a plan without caps."""
        self.service.manage(
            "shell",
            "-c",
            "from uuid import UUID; from billing.sale.plans import change; from tenants.access import SYSTEM; "
            "from tenants.actions import set_organization_limits as s; "
            f"o = UUID('{self.organization}'); change(o, 'internal', actor=SYSTEM); "
            "s(o, rate=1e6, burst=1000000, concurrency=10000)",
        )
        return self

    def ledger(self) -> list[tuple[str, str, str]]:
        """(request id, kind, mode) of all its rows."""
        return self.service.rows("SELECT request_id, kind, mode FROM usage_event WHERE tenant_id = %s", self.organization)
