"""The training loop: sample, evaluate, reward, update; every finished step on disk before the next one starts."""

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from expert_tail import artifacts
from expert_tail.errors import UserError
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.draw import Draw, prompts_of, refusing_what_is_not_finite
from expert_tail.policy.engine import chosen_engine, engine_of_policy
from expert_tail.policy.load import Policy, add_lora, load_policy, save_adapter
from expert_tail.policy.settings import LoraSettings, PromptSettings, RuntimeSettings
from expert_tail.policy.weights import check_weights
from expert_tail.progress import log, progress
from expert_tail.rlvr_train.settings import RlvrSettings
from expert_tail.tasks import TRAIN, Task
from expert_tail.tasks.stage import tasks_of
from expert_tail.training.processes import draw_together, together
from expert_tail.training.reward import NormalisedReward, standardised
from expert_tail.training.steps import OPTIMIZER, Steps, restore, run_digest, save_optimizer
from expert_tail.training.update import importance_sampling_step, rollouts_of


def run(
    rlvr: RlvrSettings,
    lora: LoraSettings,
    prompt: PromptSettings,
    runtime: RuntimeSettings,
    evaluator: EvaluatorSettings,
    tasks: Path,
    policy: Path,
    state: Path,
    checkpoints: Path,
    output: Path,
) -> None:
    """Train; or go on after the last finished step, if `state` holds steps of a run with the same inputs. A longer training
    goes on from a shorter one.

    Writes all rollouts to `output` and adapters to `checkpoints`/step={n} for each n in `rlvr.checkpoints`.
    """
    chosen_engine(runtime)  # what cannot sample is said first
    with together(runtime) as processes, artifacts.alone_in(state) if processes.is_first else nullcontext():
        chosen = tasks_of(tasks, TRAIN)
        if len(chosen) < rlvr.tasks_per_step:
            raise UserError(
                f"`rlvr.tasks_per_step` is {rlvr.tasks_per_step}, but {tasks} has {len(chosen)} training tasks"
            )
        judge = Evaluator(evaluator)
        judged_by = judge.digest if rlvr.retrain_on_evaluator_change else ""
        shaping = rlvr.model_copy(update={"steps": 0, "checkpoints": []})
        steps = _Trained(
            state
            / run_digest(
                "rlvr_train",
                *(shaping, lora, prompt, runtime.of_numbers(), tasks, policy, evaluator.of_verdicts(), judged_by),
            )
        )
        done = processes.from_first(partial(_to_go_on_after, steps, rlvr))
        if done:
            log(f"rlvr_train: going on after {done} of {rlvr.steps} steps, as {steps.folder} holds it")
        trained = add_lora(load_policy(policy, runtime), lora, rlvr.seed)
        parameters = [p for p in trained.model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=rlvr.learning_rate)
        reward = NormalisedReward(rlvr.reward_window)
        if 0 < done < rlvr.steps:
            restore(trained, optimizer, steps, done - 1, steps.adapter(done - 1))
            for row in steps.rollouts(done).select(["task_id", "speedup"]).to_pylist():
                reward.observe(row["task_id"], [row["speedup"]])
        with (
            progress("rlvr_train", rlvr.steps) as advance,
            judge if processes.is_first else nullcontext(),
            engine_of_policy(trained, runtime) as engine,
        ):
            if done:
                advance(done)
            for step in range(done, rlvr.steps):
                batch = _batch(chosen, rlvr, step)
                with refusing_what_is_not_finite(f"rlvr_train step {step}", "lower `rlvr.lr`"):
                    draws = draw_together(
                        processes,
                        engine,
                        batch,
                        rlvr.rollouts_per_task,
                        prompt,
                        temperature=rlvr.temperature,
                        max_tokens=rlvr.max_tokens,
                        seed=(rlvr.seed, step),
                    )
                rows = processes.from_first(partial(_rewarded, step, draws, judge, reward))
                update = importance_sampling_step(
                    trained.model,
                    optimizer,
                    prompts_of(trained.tokenizer, batch, prompt),
                    rollouts_of(rows, [task.task_id for task in batch]),
                    temperature=rlvr.temperature,
                    importance_cap=rlvr.importance_cap,
                    where=f"step {step}",
                    processes=processes,
                )
                if processes.is_first:
                    steps.save(step, rows, trained, optimizer, keep=set(rlvr.checkpoints))
                advance(
                    1,
                    reward=float(np.mean([row["reward"] for row in rows])),
                    correct=float(np.mean([row["status"] == "correct" for row in rows])),
                    fast_1=float(np.mean([row["speedup"] > 1 for row in rows])),
                    **update.gaps,
                )
        if processes.is_first:
            for n in rlvr.checkpoints:
                artifacts.publish(steps.adapter(n - 1), checkpoints / f"step={n}")
            notes = {"settings": rlvr.model_dump_json(), "evaluator": judge.digest, "engine": engine.name}
            artifacts.write(output, "rollouts", steps.rollouts(rlvr.steps), **notes)


def _to_go_on_after(steps: "_Trained", rlvr: RlvrSettings) -> int:
    """How many finished steps serve: all that are wanted, or none if the adapter of a checkpoint among them was not kept.

    A damaged one is a `UserError`.
    """
    done = min(steps.finished(), rlvr.steps)
    for n in (n for n in rlvr.checkpoints if n <= done):
        if not steps.adapter(n - 1).is_dir():
            log(f"rlvr_train: {steps.folder} has not kept the adapter of checkpoint {n}, so that training begins anew")
            return 0
        check_weights(steps.adapter(n - 1), steps.remedy(n - 1))
    return done


def _batch(tasks: list[Task], rlvr: RlvrSettings, step: int) -> list[Task]:
    """The tasks of a step: epochs over all training tasks, each in a shuffled order of its own."""
    picked = []
    for position in range(step * rlvr.tasks_per_step, (step + 1) * rlvr.tasks_per_step):
        epoch, index = divmod(position, len(tasks))
        picked.append(tasks[np.random.default_rng((rlvr.seed, epoch)).permutation(len(tasks))[index]])
    return sorted(set(picked), key=lambda task: task.task_id)


def _rewarded(
    step: int, draws: list[list[Draw]], evaluator: Evaluator, reward: NormalisedReward
) -> list[dict[str, Any]]:
    """Evaluate one step's rollouts and give each its reward and its group-normalised advantage."""
    flat = [one for of_task in draws for one in of_task]
    evaluations = iter(evaluator.evaluate([Candidate(one.task, one.source) for one in flat]))
    rows = []
    for of_task in draws:
        verdicts = [next(evaluations) for _ in of_task]
        rewards = reward.rewards(of_task[0].task.task_id, [v.speedup for v in verdicts])
        advantages = standardised(rewards)
        for k, (one, verdict) in enumerate(zip(of_task, verdicts, strict=True)):
            rows.append(
                {
                    "step": step,
                    "task_id": one.task.task_id,
                    "rollout": k,
                    "completion": one.text,
                    "candidate_sha256": one.sha256,
                    "token_ids": one.completion.token_ids,
                    "sampled_logprobs": one.completion.tempered_logprobs,
                    "entropy": one.completion.entropy,
                    "reward": rewards[k],
                    "advantage": advantages[k],
                    "status": verdict.status,
                    "speedup": verdict.speedup,
                    "speedup_low": verdict.speedup_low,
                }
            )
    return rows


class _Trained(Steps):
    """The finished steps of training: rollouts of all; adapter and optimiser state of those still needed."""

    def save(
        self, step: int, rows: list[dict[str, Any]], policy: Policy, optimizer: torch.optim.Optimizer, keep: set[int]
    ) -> None:
        with self.making(step) as folder:
            artifacts.write(folder / "rollouts.parquet", "rollouts", rows)
            save_adapter(policy, folder / "adapter")
            save_optimizer(optimizer, folder)
        if step > 1:
            (self[step - 2] / OPTIMIZER).unlink(missing_ok=True)
            if step - 1 not in keep:  # step - 2 left the adapter of checkpoint `step - 1`
                shutil.rmtree(self.adapter(step - 2), ignore_errors=True)

    def rollouts(self, steps: int) -> pa.Table:
        return pa.concat_tables(self.read(n, "rollouts", "rollouts") for n in range(steps))

    def adapter(self, step: int) -> Path:
        return self[step] / "adapter"
