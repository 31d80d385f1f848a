"""The operators' pages of predictions and stored answers show no payload."""

from datetime import timedelta
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone


@pytest.fixture
def operator(embedded):
    from tenants.databases import as_operator
    from tenants.models import User

    email = f"op-{uuid4().hex}@example.org"
    call_command("createsuperuser", "--noinput", f"--email={email}", "--database=ops", stdout=StringIO())
    client = Client()
    with as_operator():
        client.force_login(User.objects.get(email=email))
    return client


@pytest.fixture
def rows(alice):
    """A prediction and a stored answer of Alice's, by the name of their page."""
    from inference.models import Prediction, StoredAnswer
    from tenants.scope import tenant_scope

    later = timezone.now() + timedelta(hours=1)
    ids = {name: uuid4() for name in ("key_id", "model_id", "version_id")}
    named = {"key_public_id": "k" * 12, "model_name": "alice/iris", "version_number": "1.0.0", "hardware": "cpu"}
    payloads = {"input": b"secret input", "output": b"secret output", "fingerprint": b"secret" * 5, "idempotency_key": "secret"}
    with tenant_scope(alice.organization.id):
        prediction = Prediction.objects.create(
            organization=alice.organization, **ids, **named, **payloads, endpoint="infer", timeout=1, expires_at=later
        )
        answer = StoredAnswer.objects.create(organization=alice.organization, sealed=b"secret answer", expires_at=later)
    return {"prediction": prediction, "storedanswer": answer}


@pytest.mark.parametrize("name", ["prediction", "storedanswer"])
def test_operators_see_the_rows_without_payloads_and_change_nothing(operator, rows, alice, name):
    listed = f"/admin/inference/{name}/"
    one = f"{listed}{rows[name].pk}/change/"

    for page in (operator.get(listed, {"q": alice.organization.slug}), operator.get(one)):
        assert page.status_code == 200
        assert alice.organization.slug in page.content.decode()
        assert "secret" not in page.content.decode()
    assert operator.get(f"{listed}add/").status_code == 403
    assert operator.post(one, {"timeout": "9"}).status_code == 403
    assert operator.post(one.replace("change", "delete"), {"post": "yes"}).status_code == 403


def test_the_page_of_stored_answers_says_which_ones_it_lists(operator):
    page = operator.get("/admin/inference/storedanswer/").content.decode()

    assert "larger than 1 MiB (smaller ones are on the state server only)" in page
