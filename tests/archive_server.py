"""A local server that cuts connections, changes its mind and serves whatever it is given."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server(ThreadingHTTPServer):
    """Serves `body` at every path; `cut` closes connections after so many bytes of a reply."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = b""
        self.etag: str | None = '"one"'
        self.cut: int | None = None
        self.status = 200
        self.kind = "application/gzip"
        self.ranges = True
        self.length: str | None = None
        """Content-Length, if not the right one."""
        self.reason: str | None = None
        self.redirect: str | None = None
        """Where the first address of all leads."""
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.tgz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.redirect and self.path == "/archive.tgz":
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, status = 0, server.status
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
        body = server.body[start:]
        self.send_response(status, server.reason)
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", server.length or str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that runs in a thread; no proxy stands between it and the test."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()
