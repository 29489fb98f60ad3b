"""A page of this machine: a small HTTP server of the standard library, on the loopback interface alone.

Only the page itself, in a browser on this machine, is answered; it asks for JSON and pictures, and nothing is loaded
from anywhere else. One thread answers, for models and worlds belong to it, and OpenGL keeps to one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import threading
import webbrowser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import numpy as np

from irl_ray.errors import UserError

Answer = tuple[str, bytes]  # type and content
Answerer = Callable[[str, str, dict[str, Any]], Answer]
LOCAL = ("127.0.0.1", "localhost")
MOST = 1 << 20  # bytes of a request
# What the pages have in common: their looks, and how codes are drawn in the plane.
SHARED = {
    f"/page.{ending}": (Path(__file__).with_name(f"page.{ending}"), kind)
    for ending, kind in (("css", "css"), ("js", "javascript"))
}


class Pages(Protocol):
    """What answers a page."""

    def look(self, path: str, asked: dict[str, Any]) -> Answer:
        """What is asked for; changes nothing."""

    def change(self, path: str, asked: dict[str, Any]) -> Answer:
        """What becomes of what is asked to change."""


def serve(page: Path, make: Callable[[], Pages], port: int) -> ThreadingHTTPServer:
    """The server, bound and not yet running.

    Args:
        page: the HTML file.
        make: what answers it, made and used in one thread.
        port: 0 for any that is free.

    Raises:
        UserError: if it cannot be made, or the port cannot be had.
    """
    worker = ThreadPoolExecutor(1)
    pages = worker.submit(make).result()

    def answer(method: str, path: str, asked: dict[str, Any]) -> Answer:
        return worker.submit(getattr(pages, method), path, asked).result()

    try:
        return _Server(("127.0.0.1", port), _handler(page, answer))
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or "expected 0 to 65535"
        raise UserError(f"--port {port}: {told}; give another, or 0 for any") from None


class _Server(ThreadingHTTPServer):
    def handle_error(self, *request: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a page that was closed meanwhile
            super().handle_error(*request)


def run(server: ThreadingHTTPServer, what: str, browser: bool) -> int:
    """Serves until Ctrl-C.

    Args:
        server: as `serve` bound it.
        what: the page shows.
        browser: whether to open it in one.
    """
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    print(f"{what}: {address}  (Ctrl-C ends it)", flush=True)
    if browser:
        threading.Timer(0.3, webbrowser.open, (address,)).start()  # when it is served
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0


def add_arguments(command: argparse.ArgumentParser, port: int) -> None:
    """Where the page is served."""
    command.add_argument("--port", type=int, default=port, help=f"0 for any that is free (default: {port})")
    command.add_argument("--no-browser", action="store_true", help="print the address only")


def whole(asked: dict[str, Any], key: str) -> int:
    """A whole number of at least 0 that was asked for; 0 where it was not.

    Raises:
        UserError: if it is none.
    """
    given = asked.get(key, 0)
    text = str(given)
    if isinstance(given, (bool, float)) or not (text.isdecimal() and len(text) < 10):
        raise UserError(f"{key}: expected a whole number, got {text[:40]}")
    return int(text)


def as_json(value: Any) -> Answer:
    """An answer of numbers and words."""
    return "application/json", json.dumps(value, allow_nan=False).encode()


def picture(frame: np.ndarray) -> Answer:
    """An answer that is a picture, of uint8 [H, W, 3]."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frame).save(out, "PNG")
    return "image/png", out.getvalue()


def _handler(page: Path, answer: Answerer) -> type[BaseHTTPRequestHandler]:

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds of silence

        def do_GET(self) -> None:
            url = urlsplit("/" + self.path.lstrip("/"))
            path, kind = {"/": (page, "html"), **SHARED}.get(url.path, (None, ""))
            if path is not None and self._is_ours():
                self._send(200, f"text/{kind}; charset=utf-8", path.read_bytes())
            else:
                self._answer("look", lambda: {key: values[-1] for key, values in parse_qs(url.query).items()})

        def do_POST(self) -> None:
            self._answer("change", self._told)

        def _told(self) -> dict[str, Any]:
            size = self.headers.get("Content-Length", "")
            if not size.isdecimal() or len(size) > 9 or int(size) > MOST:
                raise UserError(f"expected at most {MOST} bytes")
            if self.headers.get_content_type() != "application/json":  # no form of another page
                raise UserError("expected JSON")
            try:
                asked = json.loads(self.rfile.read(int(size)))
            except (ValueError, RecursionError):
                asked = None
            if not isinstance(asked, dict):
                raise UserError("expected a JSON object")
            return asked

        def _answer(self, method: str, told: Callable[[], dict[str, Any]]) -> None:
            if not self._is_ours():
                self._send(403, "text/plain", b"this page is for localhost")
                return
            try:
                self._send(200, *answer(method, self.path.partition("?")[0], told()))
            except UserError as error:
                self._send(400, *as_json({"error": str(error)}))
            except Exception as error:  # told on the page, which goes on
                self._send(500, *as_json({"error": f"{type(error).__name__}: {error}"}))

        def _is_ours(self) -> bool:
            """Whether it was asked by a name of this machine, and by no other page."""
            host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
            local = re.sub(r":\d+$", "", host) in LOCAL
            other = self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")
            return local and not other and origin in (None, f"http://{host}")

        def _send(self, status: int, kind: str, content: bytes) -> None:
            policy = "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; frame-ancestors 'none'"
            with contextlib.suppress(ConnectionError):  # the page was closed meanwhile
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("Content-Security-Policy", policy)
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
