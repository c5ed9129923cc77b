"""Every mistake a user can make, as one line that names the culprit, what was found and what is wanted."""


def visible(text: str) -> str:
    """``text`` on one line: other white space as blanks, every character that cannot be seen written out."""
    return "".join(c if c.isprintable() else " " if c.isspace() else f"U+{ord(c):04X}" for c in text)


class Ims3Error(Exception):
    """Base of all expected failures; the command line prints it as one line and exits with code 2."""

    def __str__(self) -> str:
        return visible(super().__str__())


class ParameterError(Ims3Error):
    """A key of params.yaml is unknown, mistyped, out of range or contradicts another key."""


class DataError(Ims3Error):
    """An image, class or split of the data set is not what the parameters ask for."""


class ArtifactError(Ims3Error):
    """A file written by a stage is missing, truncated or does not match its manifest."""


class NumericsError(Ims3Error):
    """A computation left the real numbers: a loss or an objective is not finite."""
