"""The tasks: the built-in Level-1 suite, loading any other KernelBench-format suite, and the split into train and eval.

Nothing here imports torch: tasks are source text until something runs them.
"""

from expert_tail.tasks.level1 import LEVEL1, level1, render
from expert_tail.tasks.render import SCALES, Scale, Workload
from expert_tail.tasks.suite import TRAIN, files_of, load_suite, split
from expert_tail.tasks.task import Task, TaskError

__all__ = [
    "LEVEL1",
    "SCALES",
    "TRAIN",
    "Scale",
    "Task",
    "TaskError",
    "Workload",
    "files_of",
    "level1",
    "load_suite",
    "render",
    "split",
]
