"""How fast can it be at the very most? A lower bound on the time of a task, from its work and the device's ceilings. Pure.

    time >= SAFETY * max(bytes / bandwidth, ARITHMETIC * 2 * multiply-adds / peak)

There is no additive overhead in it, and everything in doubt makes it smaller. `work` (in `tasks`) counts only bytes and
products that no implementation can leave out. The bandwidth is the best measured in a hot loop over a quarter of the
bytes, since of a working set larger than a cache some part may still lie in it. The peak is the best of all precisions.
ARITHMETIC allows three levels of Strassen's algorithm, one more than implementations use with profit. SAFETY covers clocks
that vary and kernels better than those that ceilings are measured with. A roofline that the reference itself beats is
refuted, and nothing is claimed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expert_tail.tasks.work import Work

SAFETY = 0.8
ARITHMETIC = (7 / 8) ** 3
CACHED_SHARE = 4  # bandwidth is that of a working set this many times smaller
LARGEST_SEARCHED = 1 << 24  # values

Values = np.ndarray

_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}


@dataclass(frozen=True)
class Ceilings:
    """What a device was measured to reach: bytes/s by size of the working set in bytes (rising), and FLOP/s."""

    bandwidth: tuple[tuple[int, float], ...]
    peak: float

    def bandwidth_at(self, n_bytes: float) -> float:
        """The highest bandwidth, bytes/s, of the largest measured working set within `n_bytes`, or of any larger one.

        Of any larger one, since small ones are slowed by what a call costs: that must not pass for a limit of memory.
        """
        within = [size for size, _ in self.bandwidth if size <= n_bytes]
        least = within[-1] if within else 0
        return max(rate for size, rate in self.bandwidth if size >= least)


@dataclass(frozen=True)
class Extent:
    """How large a tensor is."""

    elements: int
    bytes: int

    @classmethod
    def of(cls, dtype: str, shape: Sequence[int]) -> "Extent":
        """`dtype` by torch's name, without `torch.`; one that is not known counts a byte an element."""
        elements = math.prod(shape)
        return cls(elements, elements * _BYTES.get(dtype, 1))


def roofline_s(
    work: Work | None, inputs: Sequence[Extent | None], outputs: Sequence[Extent], ceilings: Ceilings
) -> float:
    """Seconds that no implementation can undercut; 0 where nothing can be said.

    `inputs` has None for arguments that are no tensors. Without `work`, as for any suite that is not built in, only the
    outputs' bytes are taken to be needed; whether they are, `new_values` tells.
    """
    written = sum(output.bytes for output in outputs)
    if work is None:
        return SAFETY * written / ceilings.bandwidth_at(written / CACHED_SHARE)
    read = sum(share * extent.bytes for share, extent in zip(work.reads, inputs, strict=True) if extent)
    traffic = read + work.writes * written
    first = inputs[0].elements if inputs and inputs[0] else 0
    macs = work.macs_per_output * sum(output.elements for output in outputs) + work.macs_per_input * first
    memory = traffic / ceilings.bandwidth_at(traffic / CACHED_SHARE)
    return SAFETY * max(memory, ARITHMETIC * 2 * macs / ceilings.peak)


def is_beaten(roofline_ms: float, kernel_ms: float | None, baseline_ms: float | None) -> bool:
    """Whether a candidate's time is below a roofline that stands, which it does if the reference's time is not."""
    return kernel_ms is not None and baseline_ms is not None and kernel_ms < roofline_ms <= baseline_ms


def new_values(outputs: Sequence[Values], others: Sequence[Values], inputs: Sequence[Values]) -> list[int]:
    """How many values each output (flat) holds that are new: different, no input's, and not there whatever the inputs.

    `others` are the outputs on other inputs. A view of an input, one value expanded over many places, or a constant costs
    nothing, while every new value must be stored somewhere. Counts are from below: none in large cases.
    """
    if any(array.size > LARGEST_SEARCHED for array in inputs):
        return [0] * len(outputs)
    counts = []
    for output, other in zip(outputs, others, strict=True):
        output, other = output[:LARGEST_SEARCHED], other[:LARGEST_SEARCHED]
        new = np.unique(output[output != other])
        for array in inputs:
            new = new[~np.isin(new, array)]
        counts.append(new.size)
    return counts
