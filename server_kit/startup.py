"""Why a server does not start."""


class StartupError(Exception):
    """The server cannot start; the message is for the person who started it."""
