"""Every mistake a user can make, as one line that names the culprit, what was found and what is wanted."""

from collections.abc import Sequence

LONGEST = 600  # characters of a line


def visible(text: str) -> str:
    """``text`` on one line: other white space as blanks, every character that cannot be seen written out."""
    return "".join(c if c.isprintable() else " " if c.isspace() else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    """A character that cannot be seen; a byte of a file name that is no UTF-8 as ``\\xe4``."""
    number = ord(character)
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"U+{number:04X}"


def some(names: Sequence[object], most: int = 5) -> str:
    """The first of many names, each cut at 60 characters, and how many there are beside them."""
    texts = [text if len(text) <= 60 else f"{text[:30]}...{text[-27:]}" for text in map(str, names[:most])]
    return ", ".join(texts) + (f" and {len(names) - most:,} more" if len(names) > most else "")


class Ims3Error(Exception):
    """Base of all expected failures; the command line prints it as one line and exits with code 2."""

    def __str__(self) -> str:
        text = visible(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 205]} ... {text[-200:]}"


class ParameterError(Ims3Error):
    """A key of params.yaml is unknown, mistyped, out of range or contradicts another key."""


class DataError(Ims3Error):
    """An image, class or split of the data set is not what the parameters ask for."""


class ArtifactError(Ims3Error):
    """A file written by a stage is missing, truncated or does not match its manifest."""


class ClusterError(Ims3Error):
    """Workers do not come, are not like the others, or fail at a unit again and again."""


class HeldError(ClusterError):
    """Another process is at work on the same thing; whoever can do something else asks again later."""


class CodeChangedError(ClusterError):
    """Source files are not those that this process has loaded."""


class NumericsError(Ims3Error):
    """A computation left the real numbers: a loss or an objective is not finite."""


class LibraryError(Ims3Error):
    """A library that is installed computes other numbers than the results stand for."""
