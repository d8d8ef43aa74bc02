"""Errors that a user can act on: the command line prints their message without a traceback."""

_NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory")  # PyTorch's words, on a CPU and of CUDA


class UserError(Exception):
    """Wrong input. The message names the file, key or value and says what to do; `is_usage`: the arguments are wrong."""

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the machine's or a GPU's."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _NO_MEMORY)
