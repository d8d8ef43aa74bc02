"""The reference of each built-in task, given as a candidate, is correct, and timed in as many pairs as the settings say."""

import pytest

from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.tasks import load_suite

pytestmark = pytest.mark.slow

TASKS = {task.task_id: task for task in load_suite("level1", "cpu")}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Evaluation]:
    settings = EvaluatorSettings(device="cpu", min_pairs=6, max_pairs=6, replicates=1)
    candidates = [
        Candidate(task, task.reference_source.replace("class Model(", "class ModelNew(")) for task in TASKS.values()
    ]
    with Evaluator(settings, tmp_path_factory.mktemp("cache")) as running:
        return dict(zip(TASKS, running.evaluate(candidates), strict=True))


@pytest.mark.parametrize("task_id", TASKS)
def test_every_reference_is_correct_against_itself(task_id: int, references: dict[int, Evaluation]) -> None:
    found = references[task_id]
    assert found.status == "correct", f"{found.reason}: {found.error}"
    assert found.trials == 6
