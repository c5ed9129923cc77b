"""The border to foreign code: whatever a library raises on somebody's file becomes one line about that file.

Only calls of libraries stand inside :func:`foreign`; an error of our own code stays a traceback.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ims3core.errors import DataError, Ims3Error, visible

LONGEST = 240  # characters of a reason


@contextlib.contextmanager
def translate_errors(place: str, kind: type[Ims3Error] = DataError, *, advice: str = "") -> Iterator[None]:
    """Turns any error of the enclosed library calls into ``kind``: "<place>: <reason><advice>"."""
    try:
        yield
    except Ims3Error:
        raise
    except Exception as error:
        raise kind(f"{place}: {reason(error)}{advice}") from error


def reason(error: BaseException) -> str:
    """What an error of a library says, as one visible line without addresses; its type where it says nothing."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = visible(re.sub(r"<(\S+) object at 0x[0-9a-f]+>", r"\1", text))
    text = " ".join(re.sub(r" at 0x[0-9a-f]+", "", text).split())
    if not text or isinstance(error, KeyError | IndexError):
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
