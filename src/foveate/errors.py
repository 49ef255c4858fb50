"""What is raised when a request, not the program, is wrong."""


class RequestError(ValueError):
    """A request that cannot be met as it stands: one line that says what is wrong and how to mend it.

    The command line prints it and exits with status 2.
    """
