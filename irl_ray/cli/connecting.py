"""Whether a Ray cluster answers, asked before Ray is: Ray itself would try for minutes, and then end the process."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient
from ray.exceptions import RayError

from irl_ray.errors import UserError

WAIT = 10.0  # seconds for an answer


def check_answers(address: str, source: str) -> None:
    """Refuses an address behind which no cluster is.

    Args:
        address: `host:port` of a cluster's head, `ray://host:port` of its client server, `auto`, or `local`.
        source: where it was given, for errors.

    Raises:
        UserError: naming both.
    """
    hint = "is a cluster up there (ray status)? Without an address, Ray is started here"
    if address == "local":
        return
    try:
        asked = urlsplit(address if "://" in address else f"ray://{canonicalize_bootstrap_address(address)}")
        host, port = asked.hostname, asked.port
        if not host or not port:
            raise ValueError("no host:port, such as 10.0.0.1:6379, and not auto")
        socket.create_connection((host, port), timeout=WAIT).close()
        if address == "auto":  # as `ray.init` does
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        if "://" not in address:
            GcsClient(address=f"{host}:{port}")  # gives up by itself, after 40 seconds
    except (ValueError, OSError, RayError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        raise UserError(f"{source} {address}: no cluster answers: {reason}; {hint}") from None
