"""The error a user can act on: the command line prints its message without a traceback."""


class UserError(Exception):
    """Wrong input. The message names the file, key or value and says what to do; `is_usage`: the arguments are wrong."""

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage
