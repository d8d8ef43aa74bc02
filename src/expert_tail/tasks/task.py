"""What a task is, and the error that every unusable task or suite raises."""

import hashlib
from dataclasses import dataclass

from expert_tail.errors import UserError


class TaskError(UserError, ValueError):
    """A task or suite that cannot be used; the message says where the fault is and what to do about it."""


@dataclass(frozen=True)
class Task:
    """One problem: a module with `Model`, `get_inputs()` and `get_init_inputs()`, kept as source text."""

    task_id: int
    name: str
    level: int
    reference_source: str

    @property
    def source_sha256(self) -> str:
        return hashlib.sha256(self.reference_source.encode()).hexdigest()
