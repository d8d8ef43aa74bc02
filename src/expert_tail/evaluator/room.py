"""What a device has room for, beside the candidates' own memory. Host memory is not counted."""

from collections.abc import Sequence

import torch

from expert_tail.evaluator.tensors import Tensor

SPARE = 0.25  # of a device's memory: candidates' own
LARGE_BYTES = 1 << 30  # tensors beyond this are drawn and computed again rather than kept


class Room:
    """Memory of a device. `is_frugal`: give it back after each use, at a cost in time."""

    def __init__(self, device: torch.device, is_frugal: bool) -> None:
        self.device, self.is_frugal = device, is_frugal

    def is_left(self, n_bytes: int = 0) -> bool:
        """Whether there is some to spare beside so many bytes."""
        if self.device.type == "cpu":
            return True
        free, total = torch.cuda.mem_get_info(self.device)
        return not self.is_frugal and free - n_bytes > SPARE * total

    def is_short_after(self, tensors: Sequence[Tensor]) -> bool:
        """Whether there is none to spare where these, which are large, were made."""
        return sum(x.n_bytes for x in tensors) > LARGE_BYTES and not self.is_left()

    def trim(self) -> None:
        """Leave to the workers what this process holds, but does not use."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
