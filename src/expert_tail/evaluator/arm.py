"""One side of a comparison: a worker with a model in it, and where its inputs go. Baseline and candidate are one each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expert_tail.evaluator.process import Worker, WorkerFailure, forged
from expert_tail.evaluator.tensors import Tensor, is_address, read_tensor, same_bytes
from expert_tail.evaluator.worker import RUN


@dataclass(frozen=True, eq=False)
class Arm:
    worker: Worker
    addresses: list[int | None]  # of the input buffers in the worker; None for plain values

    @classmethod
    def allocate(cls, worker: Worker, specs: list[dict[str, Any]], timeout_s: float) -> "Arm":
        """Have the worker make input buffers."""
        answer = worker.call({"do": "allocate", "specs": specs}, "addresses", timeout_s)
        if not isinstance(answer, list) or [is_address(x) for x in answer] != ["dtype" in spec for spec in specs]:
            raise forged()
        return cls(worker, answer)

    def run(
        self, inputs: list[Any], timeout_s: float, command: bytes = RUN, wanted: Sequence[Tensor] | None = None
    ) -> tuple[float, list[Tensor]]:
        """Run the model once on `inputs`; seconds by the parent's clock, and the outputs. The worker stays frozen.

        Raises `WorkerFailure`, also for a model that changed its inputs, or whose outputs are not like `wanted`, if given.
        """
        for address, value in zip(self.addresses, inputs, strict=True):
            if address is not None:
                self.worker.write(address, value.data)
        seconds, described = self.worker.run(command, timeout_s)
        if not isinstance(described, list):
            raise forged()
        if wanted is not None and len(described) != len(wanted):
            raise WorkerFailure(
                "incorrect", f"returned {len(described)} tensors instead of {len(wanted)}", "wrong_arity"
            )
        outputs = [
            read_tensor(self.worker, description, None if wanted is None else wanted[i])
            for i, description in enumerate(described)
        ]
        for address, value in zip(self.addresses, inputs, strict=True):
            if address is not None and not same_bytes(self.worker.read(address, value.data.nbytes), value.data):
                raise WorkerFailure("incorrect", "the inputs are changed after the call", "input_mutated")
        return seconds, outputs

    def check_intact(self, outputs: list[Tensor], inputs: list[Any]) -> None:
        """Raise `WorkerFailure` if a later call has overwritten these outputs, which the worker still holds.

        Those that view an input buffer may have changed: the parent has written there.
        """
        buffers = [
            range(address, address + value.data.nbytes)
            for address, value in zip(self.addresses, inputs, strict=True)
            if address is not None
        ]
        for output in outputs:
            if not output.described or any(output.described["address"] in buffer for buffer in buffers):
                continue
            if not same_bytes(read_tensor(self.worker, output.described).data, output.data):
                raise WorkerFailure("incorrect", "a call overwrites the output of the call before", "output_reused")
