"""The one exception that means "you can mend this yourself"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the user's input: printed as one line without a traceback, exit code 2.

    The message names the file or key at fault, what was expected, and how to mend it.
    """


def did_you_mean(word: str, choices: Iterable[str], alike: float = 0.6) -> str:
    """`" Did you mean 'x'?"` for the closest of `choices` that is so much alike, else an empty string."""
    close = difflib.get_close_matches(str(word), [str(choice) for choice in choices], n=1, cutoff=alike)
    return f" Did you mean {close[0]!r}?" if close else ""
