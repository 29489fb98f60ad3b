"""What people type and read; needs no Ray."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from irl_ray.errors import UserError

INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}  # exit codes of a command that was asked to stop, as shells do


def run_command(name: str, command: Callable[[], int]) -> int:
    """Runs a command; returns its exit code, 2 after a user's mistake, of which one line tells.

    A letter that the console cannot show becomes a question mark; who reads no further (`| head`) ends the command.
    Modules in the present folder can be imported, after all that is installed: worlds are named by them.

    Args:
        name: of the console script.
        command: what it does.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where something else collects what is printed
            stream.reconfigure(errors="replace")
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still holds goes nowhere
        return 0


def duration(seconds: float) -> str:
    """`75` as `1m15s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def json_object(text: str) -> dict[str, Any]:
    """An argument that is a JSON object."""
    try:
        value = json.loads(text, object_pairs_hook=each_once)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("expected a JSON object")
    return value


def check_writable(path: str, flag: str) -> None:
    """Makes the folder of a file that a flag names, and refuses a file that cannot be written.

    Raises:
        UserError: telling why not.
    """
    file = Path(path)
    there = file.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):
            pass
        if not there:
            file.unlink()
    except OSError as error:
        why = f"{flag} {path}: cannot be written ({error.strerror})"
        raise UserError(f"{why}; name a file in a folder of yours") from None


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of which every key is there once; JSON itself keeps the last and says nothing.

    Raises:
        UserError: naming the key.
    """
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise UserError(f"{key}: stands twice in the same mapping; leave one out")
        made[key] = value
    return made
