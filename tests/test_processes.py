"""Several processes that train one adapter, on the CPU or a GPU each: the same draws and the same update as one process."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from injection import expert_tail
from safetensors.torch import load_file
from test_gpt_oss import BOTH, HARMONY, folder, loaded

from expert_tail import artifacts
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.draw import prompts_of
from expert_tail.policy.engine import TransformersEngine
from expert_tail.policy.settings import LoraSettings, RuntimeSettings
from expert_tail.rlvr_train.settings import RlvrSettings
from expert_tail.tasks import load_suite
from expert_tail.tasks.settings import TaskSettings
from expert_tail.tasks.stage import run as write_tasks
from expert_tail.training.processes import ALONE, Processes, draw_together, together
from expert_tail.training.update import Rollout, importance_sampling_step

__all__ = ["folder"]  # a fixture

TASKS = [task for task in load_suite("level1", "cpu") if task.task_id in (5, 19, 20)]
CASES = (False, True)  # whether all the work is in the first process' share, and the others have nothing to add
OPTIONS = {"temperature": 0.7, "max_tokens": 5, "seed": (1,)}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def work(
    processes: Processes, policy_folder: Path, only_first: bool, shards: int = 1, device: str = "cpu"
) -> dict[str, object]:
    """Draws, then two updates whose rollouts are weighted by hand; run by every process, and by the test alone."""
    torch.set_num_threads(1)
    policy = loaded(policy_folder, BOTH, shards=shards, device=device)
    layers = list(policy.model.get_decoder().layers.parameters())
    here = sum(getattr(weight, "to_local", lambda weight=weight: weight)().numel() for weight in layers)
    draws = draw_together(processes, TransformersEngine(policy), TASKS, 3, HARMONY, **OPTIONS)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    rollouts = [
        [
            Rollout(one.completion.token_ids, one.completion.tempered_logprobs, (t + 1) * (k - 1.0))
            for k, one in enumerate(of_task)
        ]
        for t, of_task in enumerate(draws)
    ]
    if only_first:
        rollouts = [rollouts[0], *([r._replace(advantage=0.0) for r in of_task] for of_task in rollouts[1:])]
    updates = [
        importance_sampling_step(
            policy.model,
            optimizer,
            prompts_of(policy.tokenizer, TASKS, HARMONY),
            rollouts,
            temperature=0.7,
            importance_cap=2.0,
            where="here",
            processes=processes,
        )
        for _ in range(2)
    ]
    # Of two more parameters only the first process has a gradient for the one, and none for the other.
    more = [torch.nn.Parameter(torch.zeros(2, device=device)) for _ in range(2)]
    more[0].grad = torch.ones(2, device=device) if processes.is_first else None
    processes.sum_gradients(more)
    return {
        "more": [None if p.grad is None else p.grad.tolist() for p in more],
        "held": here / sum(weight.numel() for weight in layers),
        "tokens": [[one.completion.token_ids for one in of_task] for of_task in draws],
        "updates": [[update.loss, update.gradient_norm, *update.gaps.values()] for update in updates],
        "weights": torch.cat([p.detach().flatten() for p in parameters]).tolist(),
    }


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("shards", [pytest.param(1, id="whole"), pytest.param(2, id="divided", marks=pytest.mark.slow)])
def test_two_processes_draw_and_update_like_one(folder: Path, tmp_path: Path, shards: int, device: str) -> None:
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    done = subprocess.run(
        [*command, str(folder), str(tmp_path), str(shards), device],
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[:3000]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    held = [[of_case.pop("held") for of_case in cases] for cases in (first, second)]
    assert first == second  # bit for bit, or the two adapters would drift apart
    assert all(1 / shards <= part < 1.1 / shards for part in np.ravel(held))  # the adapter is whole
    for of_two, only_first in zip(first, CASES, strict=True):
        alone = work(ALONE, folder, only_first, device=device)
        assert of_two["tokens"] == alone["tokens"]
        assert of_two["more"] == alone["more"] == [[1, 1], None]
        torch.testing.assert_close(
            torch.tensor(of_two["updates"]), torch.tensor(alone["updates"]), atol=1e-4, rtol=1e-3
        )
        # Adam's first steps are lr times the sign: where a gradient is no more than rounding, so is its sign.
        close = torch.isclose(torch.tensor(of_two["weights"]), torch.tensor(alone["weights"]), atol=1e-4)
        assert close.float().mean() > 0.995


def training(folder: Path, tmp_path: Path, steps: int, checkpoints: list[int], *before: str, shards: int = 1) -> str:
    """Trains by the command line; returns what it says."""
    tasks, names = tmp_path / "tasks.parquet", ("state", "checkpoints", "rollouts.parquet")
    write_tasks(TaskSettings(subsets={"rest": [i for i in range(1, 101) if i not in (5, 19)]}), tasks)
    sections = {
        "rlvr": RlvrSettings(steps=steps, tasks_per_step=2, rollouts_per_task=2, checkpoints=checkpoints, max_tokens=4),
        "lora": LoraSettings(rank=2, targets="q_proj,v_proj"),
        "prompt": HARMONY,
        "policy": RuntimeSettings(device="cpu", shards=shards),
        "evaluator": EvaluatorSettings(correctness_trials=1, min_pairs=6, max_pairs=6),
    }
    paths = {"tasks": tasks, "policy": folder} | {name.partition(".")[0]: tmp_path / name for name in names}
    paths["output"] = paths.pop("rollouts")
    flags = [part for section, settings in sections.items() for part in shlex.split(settings.flags(section))]
    command = expert_tail(*before, "rlvr_train", *(f"--{name}={path}" for name, path in paths.items()), *flags)
    environment = ENVIRONMENT | {"EXPERT_TAIL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:3000]
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2], ids=["whole", "divided"])
def test_training_as_two_processes(folder: Path, tmp_path: Path, shards: int) -> None:
    """The command line: one log, one set of files, whole though two processes ran."""
    log = tmp_path / "train.log"
    said = training(folder, tmp_path, 1, [1], "--log", str(log), "--processes", "2", shards=shards)
    rows = artifacts.read(tmp_path / "rollouts.parquet", "rollouts").to_pylist()
    assert [(row["task_id"], row["rollout"]) for row in rows] == [(5, 0), (5, 1), (19, 0), (19, 1)]
    assert load_file(tmp_path / "checkpoints" / "step=1" / "adapter_model.safetensors")
    assert log.read_text().count("rlvr_train: 1/1") == 1
    assert said.count("rlvr_train: 1/1") == 1


@pytest.mark.slow
def test_longer_training_goes_on_from_a_shorter_one(folder: Path, tmp_path: Path) -> None:
    def steps() -> list[int]:
        return artifacts.read(tmp_path / "rollouts.parquet", "rollouts")["step"].to_pylist()

    training(folder, tmp_path, 1, [1])
    assert "going on after 1 of" in training(folder, tmp_path, 3, [3])
    assert steps() == [0] * 4 + [1] * 4 + [2] * 4
    assert "going on after 3 of" in training(folder, tmp_path, 3, [2, 3])  # which the last two steps still have
    # Of the first step the adapter is gone.
    assert "not kept the adapter of checkpoint 1, so that training begins anew" in training(folder, tmp_path, 3, [1, 3])
    assert "going on after 1 of" in training(folder, tmp_path, 1, [1])  # a shorter one has nothing to be trained
    assert steps() == [0] * 4


def test_another_number_of_processes_than_parts_is_refused() -> None:
    here = f"from {together.__module__} import *\nwith together(RuntimeSettings(device='cpu', shards=3)): pass"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    done = subprocess.run([*command, sys.executable, "-c", here], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "`policy.shards` is 3, and these are 2 processes: start one, or as many" in done.stderr


def test_only_training_runs_as_several_processes() -> None:
    done = subprocess.run(
        expert_tail("--processes", "2", "headroom", "--output", "x", "--measured"), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--processes is for rlvr_train and adapt" in done.stderr


if __name__ == "__main__":  # one of the processes of the first test
    policy_folder, results, shards, device = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with together(RuntimeSettings(device=device, shards=shards)) as here:
        result = [work(here, policy_folder, only_first, shards, device) for only_first in CASES]
        (results / f"{here.rank}.json").write_text(json.dumps(result))
