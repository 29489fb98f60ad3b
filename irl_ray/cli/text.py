"""How things are written for people; needs no Ray."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`75` as `1m15s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
