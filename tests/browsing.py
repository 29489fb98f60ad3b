"""Pages of this machine, asked by HTTP and seen in Chromium."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import pytest


@contextlib.contextmanager
def served(server: ThreadingHTTPServer) -> Iterator[str]:
    """Its address."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def get(url: str, told: object = None, **headers: str) -> tuple[int, bytes, str]:
    """Status, content and its type."""
    data = None if told is None else told if isinstance(told, bytes) else json.dumps(told).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["Content-Type"]


def pages(address: str) -> Iterator[tuple[Any, Any]]:
    """A page in each colour scheme, and Playwright's `expect`; the console has to stay empty."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("chromium is not installed")
    told: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme)
            page.on("console", lambda message: told.append(message.text))
            page.on("pageerror", lambda error: told.append(str(error)))
            page.goto(address)
            yield page, playwright.expect
            assert told == []
            page.close()
        browser.close()
