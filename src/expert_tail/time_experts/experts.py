"""The expert solutions: one file a task and action, in the form in which a policy would write it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expert_tail.evaluator.evaluator import Candidate
from expert_tail.policy.action import candidate_source
from expert_tail.tasks import LEVEL1, Task
from expert_tail.time_experts.folder import file_of

# Modules are written for GPUs: no candidate may compile on the CPU.
ACTIONS = {"cpu": ("forward_body",), "cuda": ("forward_body", "module")}


@dataclass(frozen=True)
class Expert:
    action: str
    candidate: Candidate


def experts_for(tasks: Sequence[Task], folder: Path, device: str, *, of_level1: bool = False) -> list[Expert]:
    """The experts that `folder` (ACTION/TASK_ID.py) has for these tasks on a device, in the order of the tasks.

    With `of_level1`, for tasks of KernelBench's Level 1 alone: one of another suite may have the number, but not the name.
    """
    found = []
    for task in tasks:
        workload = LEVEL1.get(task.task_id)
        if of_level1 and (workload is None or workload.full_name != task.name):
            continue
        for action in ACTIONS[device.partition(":")[0]]:
            path = file_of(folder, action, task.task_id)
            if path.is_file():
                source = candidate_source(task.reference_source, path.read_text(), action)
                found.append(Expert(action, Candidate(task, source)))
    return found
