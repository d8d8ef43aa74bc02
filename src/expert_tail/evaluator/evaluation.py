"""One evaluation: verdict and timing of a candidate, as a row of the evaluations table."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

STATUSES = (
    "correct",
    "compile_error",
    "runtime_error",
    "incorrect",
    "timeout",
    "out_of_memory",
    "crash",
    "rejected",
)


@dataclass(frozen=True)
class Evaluation:
    """Columns as in `artifacts.SCHEMAS["evaluations"]`; speedups are 0 unless `status` is correct, times in ms."""

    status: str
    evaluator: str
    hardware: str
    reason: str = ""
    error: str = ""
    speedup: float = 0.0
    speedup_low: float | None = 0.0  # None: the protocol gives no interval
    speedup_high: float | None = 0.0
    kernel_ms: float | None = None
    baseline_ms: float | None = None
    trials: int = 0
    roofline_ms: float | None = None
    sandbox: str = ""  # layers that confined the candidate, for example userns+netns+landlock7+seccomp+rlimits
    measured_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"unknown status {self.status!r}")
        # A candidate's text may have halves of surrogate pairs, which no file of ours can hold.
        object.__setattr__(self, "error", self.error.encode("utf-8", "replace").decode())

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"measured_at": self.measured_at.isoformat()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Evaluation":
        return cls(**values | {"measured_at": datetime.fromisoformat(values["measured_at"])})
