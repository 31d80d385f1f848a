"""The stand-in's HTTP server: the API for who has its key, pages for who has a link."""

import json
import logging
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from saas.local.stripe import api, pages
from saas.local.stripe.forms import decode
from saas.local.stripe.webhooks import Deliverer
from saas.local.stripe.world import World

TICK_SECONDS = 0.2
MOST_BYTES = 1 << 20
log = logging.getLogger("standin")
PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action *; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


class Server(ThreadingHTTPServer):
    """Serves on loopback until `end()`. `start()` returns when it listens."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, world: World, port: int) -> None:
        self.world = world
        super().__init__(("127.0.0.1", port), Handler)
        if not world.base_url:
            world.base_url = f"http://127.0.0.1:{self.server_port}"
        self._deliverer = Deliverer(world)
        self._ending = threading.Event()

    def start(self) -> None:
        self._deliverer.start()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="http", daemon=True).start()
        threading.Thread(target=self._tick, name="clock", daemon=True).start()

    def end(self) -> None:
        self._ending.set()
        self.shutdown()
        self.server_close()
        self._deliverer.end()
        with self.world.lock:
            self.world.store.close()

    def _tick(self) -> None:
        while not self._ending.wait(TICK_SECONDS):
            self.world.tick()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that left is no news
            log.exception("a request failed")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet
    server: Server

    def do_GET(self) -> None:
        self._serve("")

    do_DELETE = do_GET

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MOST_BYTES:
            self._send(413, b"{}", {})
            self.close_connection = True
            return
        self._serve(self.rfile.read(length).decode("utf-8", "replace"))

    def _serve(self, body: str) -> None:
        parts = urlsplit(self.path)
        if not self._is_local():
            self._send(403, b"{}", {})
        elif parts.path.startswith(("/v1/", "/v2/", "/_standin/")):
            self._answer(parts.path, body or parts.query)
        else:
            self._show(parts.path, body)

    def _is_local(self) -> bool:
        """Whether this server was asked by a name of this machine, and by no page of another one."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        origin = self.headers.get("Origin", "")
        return host in ("127.0.0.1", "localhost") and origin in ("", "null", f"http://{self.headers.get('Host')}")

    def _answer(self, path: str, text: str) -> None:
        kind = self.headers.get("Content-Type", "")
        result = api.answer(
            self.server.world,
            self.command,
            path,
            text,
            key=self.headers.get("Idempotency-Key", ""),
            secret=self.headers.get("Authorization", "").removeprefix("Bearer "),
            is_json=kind.startswith("application/json"),
        )
        if result.is_dropped:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        headers = {"Content-Type": "application/json", "Request-Id": "req_standin", **result.headers}
        self._send(result.status, json.dumps(result.body).encode(), headers)

    def _show(self, path: str, body: str) -> None:
        with self.server.world.lock:
            page = pages.answer(self.server.world, self.command, path, decode(body))
        if page is None:
            self._send(404, b"There is no such page", {"Content-Type": "text/plain"})
        elif page.to:
            self._send(page.status, b"", {"Location": page.to, "Cache-Control": "no-store"})
        else:
            self._send(page.status, page.body, PAGE_HEADERS)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are remembered in the store; the log is for what goes wrong."""
