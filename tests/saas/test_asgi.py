"""saas/asgi.py: what an answer of the management waits for."""

import asyncio
from types import SimpleNamespace

from django.conf import settings

from saas.asgi import Application


async def test_an_answer_leaves_once_its_process_knows_of_the_change():
    """Or the client's next call could meet what was before."""
    order = []

    async def hear_all():
        await asyncio.sleep(0.01)
        order.append("heard")

    async def send(message):
        order.append(message["type"])

    application = Application(settings.CONFIG)
    application._gateway = SimpleNamespace(lanes=SimpleNamespace(hear_all=hear_all))
    send_later = application._once_heard(send)

    await send_later({"type": "http.response.start", "status": 200, "headers": []})
    await send_later({"type": "http.response.body", "body": b""})

    assert order == ["heard", "http.response.start", "http.response.body"]
