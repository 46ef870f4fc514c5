"""The one kind of error that is the person's to mend, wherever it is found."""


class Unusable(Exception):  # noqa: N818 - reads as what it is: something outside is not as it must be
    """Settings, a file, a port or the broker cannot be used.

    The text is written for the person who runs the command: what it is, and what to do next.
    """
