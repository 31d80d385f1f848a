"""What a request leaves in the log."""

from django.test import Client


def test_a_foreign_host_leaves_the_line_of_its_request_and_no_traceback(embedded, caplog):
    answer = Client(raise_request_exception=False).get("/api/v1/models", headers={"Host": "elsewhere.example"})

    assert answer.status_code == 400
    (line,) = caplog.records
    assert not line.exc_info
