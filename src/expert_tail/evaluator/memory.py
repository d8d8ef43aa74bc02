"""How the parent puts inputs into a frozen worker and takes outputs out of it: in host memory, or in a GPU's.

On a CPU the parent reads and writes the worker's own memory. On a GPU the input buffer is the parent's, and the worker maps
it; outputs lie in allocations of the worker that the parent maps. The parent's copy of the outputs belongs to the time of
a run: it waits for whatever the worker has left running on the device, or finds its outputs unfinished.
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from expert_tail.evaluator import cuda
from expert_tail.evaluator.layout import Inputs, Layout
from expert_tail.evaluator.process import Worker, WorkerFailure, forged
from expert_tail.evaluator.rest import Rest
from expert_tail.evaluator.tensors import Source, is_address, same_bytes
from expert_tail.evaluator.worker import INPUTS

MAX_SPANS, MAX_SNAPSHOT_BYTES = 4096, 2**34


class Memory(ABC):
    """A worker's memory. `address` and `n_bytes`: of its input buffer, in the worker."""

    device: torch.device
    is_shared: bool  # whether all workers of a task have one input buffer
    address: int
    n_bytes: int

    @abstractmethod
    def allocate(self, layout: Layout, timeout_s: float) -> None:
        """Give the worker a buffer for inputs of this layout, in place of the one before."""

    @abstractmethod
    def write(self, inputs: Inputs) -> None:
        """Put inputs into the buffer, unless they should be there already, and bring the device to rest."""

    def is_disturbed(self, seconds: float) -> bool:
        """Whether other work runs on the device, where there is one, while the parent keeps it for so long."""
        return False

    def settles(self) -> bool:
        """Wait until the device is undisturbed again; whether that was soon."""
        return True

    @abstractmethod
    def forget(self) -> None:
        """Put the next inputs into the buffer whatever should be there."""

    @abstractmethod
    def holds(self, inputs: Inputs) -> bool:
        """Whether the buffer still holds these inputs."""

    @abstractmethod
    def source(self, spans: Any) -> Source:
        """Memory as it is now; `spans` as the worker answers them."""

    def borrowed(self, spans: Any) -> Source:
        """The same without a copy, where there need be none: to be read before the worker goes on, which is trusted."""
        return self.source(spans)

    def outputs(self, spans: Any) -> Source:
        """The same after a run, for its outputs: once it returns they are there to be read."""
        return self.source(spans)

    @abstractmethod
    def close(self) -> None:
        """Give back what the parent holds of the worker's memory: else it stays taken when the worker frees it."""

    def _ask(self, worker: Worker, layout: Layout, handle: str | None, timeout_s: float) -> int:
        command = {"do": "allocate", "specs": layout.specs, "offsets": layout.offsets, "n_calls": layout.n_calls}
        address = worker.call(
            command | {"call_bytes": layout.call_bytes, "handle": handle, "n_bytes": layout.n_bytes},
            "address",
            timeout_s,
        )
        if not is_address(address):
            raise forged()
        return address


class HostMemory(Memory):
    device = torch.device("cpu")
    is_shared = False

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def allocate(self, layout: Layout, timeout_s: float) -> None:
        self.address, self.n_bytes = self._ask(self._worker, layout, None, timeout_s), layout.n_bytes

    def write(self, inputs: Inputs) -> None:
        self._worker.write(self.address, inputs.packed)

    def forget(self) -> None:
        pass  # they are put there each time

    def holds(self, inputs: Inputs) -> bool:
        return same_bytes(self._worker.read(self.address, inputs.packed.numel()), inputs.packed)

    def source(self, spans: Any) -> Source:
        return self

    def bytes_at(self, address: int, n_bytes: int) -> torch.Tensor:
        return self._worker.read(address, n_bytes)

    def close(self) -> None:
        pass  # nothing is held


class DeviceBuffer:
    """The one input buffer of a device that all workers of a task map: they run in turn, and see the same memory."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._address = device, 0
        self.rest = Rest(device)
        self._holds: weakref.ref[Inputs] | None = None  # what was put there, and has not been seen to be changed

    def should_hold(self, inputs: Inputs) -> bool:
        """Whether inputs were put there, so that they need not be again: to copy large ones takes longer than most runs."""
        return self._holds is not None and self._holds() is inputs

    def fill(self, inputs: Inputs) -> None:
        self.view[: inputs.packed.numel()] = inputs.packed
        self._holds = weakref.ref(inputs)

    def holds(self, inputs: Inputs) -> bool:
        """Whether these inputs lie there, byte by byte."""
        same = same_bytes(self.view[: inputs.packed.numel()], inputs.packed)
        if not same:
            self.forget()
        return same

    def forget(self) -> None:
        self._holds = None

    def resize(self, n_bytes: int) -> None:
        """Make it anew. Whoever maps the one before must map this. Raises `WorkerFailure` where there is no memory."""
        self.close()
        self.forget()
        torch.cuda.empty_cache()
        try:
            self._address = cuda.malloc(n_bytes)
        except cuda.CudaError as error:
            raise WorkerFailure("out_of_memory", f"{n_bytes} bytes of inputs do not fit the device: {error}") from None
        self.handle = cuda.export(self._address).hex()
        self.view = cuda.tensor_at(self._address, n_bytes, self.device)

    @property
    def range(self) -> cuda.Range:
        return cuda.Range(self._address, self.view.numel())

    def close(self) -> None:
        if self._address:
            cuda.free(self._address)
            self._address = 0


class DeviceMemory(Memory):
    is_shared = True

    def __init__(self, worker: Worker, buffer: DeviceBuffer) -> None:
        self._worker, self._buffer, self.device = worker, buffer, buffer.device
        self._opened: dict[bytes, cuda.Range] = {}
        self._taken = 0  # bytes of outputs that the last run left

    def allocate(self, layout: Layout, timeout_s: float) -> None:
        self.address = self._ask(self._worker, layout, self._buffer.handle, timeout_s)
        self.n_bytes = layout.n_bytes
        self.forget()  # a candidate's code may have run since it maps the buffer

    def forget(self) -> None:
        self._buffer.forget()

    def write(self, inputs: Inputs) -> None:
        rest = self._buffer.rest
        if not self._buffer.should_hold(inputs):
            rest.wait()  # who was told to end may still write there
            self._buffer.fill(inputs)
        # Room for the outputs' copy, which is made on the clock: torch keeps it at hand.
        torch.empty(self._taken, dtype=torch.uint8, device=self.device)
        rest.flush()
        rest.wait()

    def is_disturbed(self, seconds: float) -> bool:
        return self._buffer.rest.is_disturbed(seconds)

    def settles(self) -> bool:
        return self._buffer.rest.settles()

    def holds(self, inputs: Inputs) -> bool:
        return self._buffer.holds(inputs)

    def outputs(self, spans: Any) -> "Snapshot":
        snapshot = self.source(spans)
        torch.cuda.synchronize(self.device)
        self._taken = sum(piece.numel() for _, piece in snapshot.pieces)
        return snapshot

    def source(self, spans: Any) -> "Snapshot":
        """A copy of the spans. Raises `WorkerFailure` for one that is not the worker's."""
        return Snapshot(self.device, [(address, piece.clone()) for address, piece in self._pieces(spans)])

    def borrowed(self, spans: Any) -> "Snapshot":
        return Snapshot(self.device, list(self._pieces(spans)))

    def _pieces(self, spans: Any) -> Iterator[tuple[int, torch.Tensor]]:
        """The spans' addresses in the worker, and their bytes."""
        if not isinstance(spans, list) or len(spans) > MAX_SPANS:
            raise forged()
        total = 0
        for span in spans:
            try:
                base, handle, low, high = span
                known = self._buffer.range if handle == INPUTS else self._known(bytes.fromhex(handle))
            except (TypeError, ValueError, cuda.CudaError):
                raise forged() from None
            if not (is_address(base) and is_address(low) and is_address(high) and low < high <= known.n_bytes):
                raise WorkerFailure("rejected", "no memory at the address answered", "bad_address")
            if (total := total + high - low) > MAX_SNAPSHOT_BYTES:
                raise WorkerFailure(
                    "incorrect", "returned tensors spread over far more memory than they need", "sparse_strides"
                )
            yield base + low, cuda.tensor_at(known.base + low, high - low, self.device)

    def _known(self, handle: bytes) -> cuda.Range:
        if handle not in self._opened:
            if len(handle) != 64:
                raise ValueError(handle)
            self._opened[handle] = cuda.range_of(cuda.open_handle(handle))
        return self._opened[handle]

    def close(self) -> None:
        for opened in self._opened.values():
            cuda.close_handle(opened.base)
        self._opened.clear()


@dataclass
class Snapshot:
    """Pieces of a worker's device memory: (address in the worker, bytes)."""

    device: torch.device
    pieces: list[tuple[int, torch.Tensor]]

    def bytes_at(self, address: int, n_bytes: int) -> torch.Tensor:
        for start, piece in self.pieces:
            if start <= address and address + n_bytes <= start + piece.numel():
                found = piece[address - start : address - start + n_bytes]
                return found if found.storage_offset() % 16 == 0 else found.clone()
        raise WorkerFailure("rejected", "no memory at the address answered", "bad_address")
