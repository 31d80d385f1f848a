"""What an Idempotency-Key stands for: two requests that mean something else never share one."""

import hashlib
import json

import pytest

from saas.lib.fingerprints import fingerprint
from tests.saas.serving import tensor

pytestmark = pytest.mark.no_servers


def test_a_body_that_is_read_in_another_way_is_another_request(served):
    key, body = {"Idempotency-Key": "read"}, json.dumps({"inputs": ["one", "two"]}).encode()

    assert served.predict("texts", body, key | {"Content-Type": "application/json"})[0] == 200
    status, _, answer = served.predict("texts", body, key | {"Content-Type": "text/plain"})
    assert (status, answer["code"]) == (422, "idempotency_key_reused")
    status, headers, _ = served.predict("texts", body, key | {"Content-Type": "application/json; charset=utf-8"})
    assert (status, headers["idempotent-replayed"]) == (200, "true")


def test_a_body_that_is_cut_at_a_place_is_another_request(served):
    key, body = {"Idempotency-Key": "cut"}, json.dumps({"inputs": [tensor()]}).encode()

    assert served.infer("rows", body, key)[0] == 200
    status, _, answer = served.infer("rows", body, key | {"Inference-Header-Content-Length": str(len(body))})
    assert (status, answer["code"]) == (422, "idempotency_key_reused")


def test_a_form_with_another_boundary_is_another_request():
    kinds = [b"multipart/form-data; boundary=x", b"multipart/form-data; boundary=y"]

    assert len({fingerprint(b"POST", b"/a", b"body", content_type=kind) for kind in kinds}) == 2


def test_a_body_cut_at_another_place_is_another_request():
    seen = {fingerprint(b"POST", b"/a", b"body", head_length=length) for length in (None, b"0", b"4", b"-")}

    assert len(seen) == 4


def test_a_request_read_as_json_keeps_the_fingerprint_that_it_had():
    assert fingerprint(b"POST", b"/a", b"{}", content_type=b"application/json") == hashlib.sha256(b"POST\n/a\n{}").digest()


def test_no_body_passes_for_that_of_a_request_with_headers():
    told = fingerprint(b"POST", b"/a", b"body", content_type=b"text/plain", head_length=b"2")

    assert told != fingerprint(b"POST", b"/a", b"with\ntext/plain\n2\nPOST\n/a\nbody")
