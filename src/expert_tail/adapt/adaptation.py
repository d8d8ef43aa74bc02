"""What one step of adaptation does in memory: sample and evaluate, score in hindsight, update. Rows are those of artifacts."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from expert_tail import artifacts
from expert_tail.adapt.objectives import divergence_penalty, reward_advantages
from expert_tail.adapt.settings import Run
from expert_tail.adapt.teacher import Attempt, hindsight
from expert_tail.evaluator.evaluation import Evaluation
from expert_tail.evaluator.evaluator import Candidate, Evaluator
from expert_tail.policy.action import candidate_source
from expert_tail.policy.counting import counted_tokens
from expert_tail.policy.draw import Draw, prompts_of, refusing_what_is_not_finite
from expert_tail.policy.engine import Engine
from expert_tail.policy.load import Policy
from expert_tail.policy.logprobs import completion_logprobs
from expert_tail.policy.prompt import prompt_tokens
from expert_tail.policy.settings import DrawSettings, PromptSettings
from expert_tail.progress import log
from expert_tail.tasks import Task
from expert_tail.training.processes import ALONE, Processes, draw_together
from expert_tail.training.reward import NormalisedReward
from expert_tail.training.update import GAPS, importance_sampling_step, rollouts_of

Row = dict[str, Any]


class Adaptation:
    """A run in progress: the policy as it is now, and what makes its next rollouts, advantages and update."""

    def __init__(
        self,
        name: str,
        run: Run,
        draws: DrawSettings,
        prompt: PromptSettings,
        tasks: Sequence[Task],
        policy: Policy,
        engine: Engine,
        evaluator: Evaluator,
        start: Path,
        processes: Processes = ALONE,
    ) -> None:
        self.name, self.run, self.draws, self.prompt, self.start = name, run, draws, prompt, start
        self.processes = processes
        self.tasks, self.policy, self.engine, self.evaluator = list(tasks), policy, engine, evaluator
        self.prompts = prompts_of(policy.tokenizer, self.tasks, prompt)
        self.optimizer = torch.optim.Adam([p for p in policy.model.parameters() if p.requires_grad], lr=run.lr)
        self._normalised = NormalisedReward(run.reward_window)

    def account(self, step: int) -> Row:
        """An account of a step in which nothing has been done yet."""
        row: Row = {field.name: 0 for field in artifacts.SCHEMAS["accounts"]}
        return row | self._labels(step) | dict.fromkeys(["loss", "gradient_norm", *GAPS])

    def _labels(self, step: int) -> Row:
        return {"step": step, "objective": self.run.objective, "lr": self.run.lr}

    # --- rollouts ---------------------------------------------------------------------------------------------------

    def sample(self, step: int, account: Row) -> tuple[list[Row], list[Row]]:
        """The rollouts of a step and their evaluations, with rewards and, where rewards suffice, advantages."""
        draws, verdicts = self._sample(step, self.run.rollouts, (self.run.seed, step), account, "rollouts")
        speedups = [[verdict.speedup for verdict in of_task] for of_task in verdicts]
        rewards = [self._rewards(task.task_id, of_task) for task, of_task in zip(self.tasks, speedups, strict=True)]
        advantages: list[Any] = [[None] * len(of_task) for of_task in rewards]
        method = self.run.method
        if method.teacher is None:
            advantages = reward_advantages(method, rewards, self.run.over or method.over, **self.run.parameters)
        if not any(speedup > 0 for of_task in speedups for speedup in of_task):
            log(f"{self.name} step {step}: none of the {account['rollouts']} rollouts is correct")
        return self._rows(step, draws, verdicts, rewards, advantages)

    def sample_afresh(self, step: int, account: Row) -> tuple[list[Row], list[Row]]:
        """Rollouts of a step that no update is made from, and their evaluations."""
        seed = (self.run.seed, step, 1)
        draws, verdicts = self._sample(step, self.run.fresh_rollouts, seed, account, "fresh_rollouts")
        nothing = [[None] * len(of_task) for of_task in draws]
        return self._rows(step, draws, verdicts, nothing, nothing)

    def _sample(
        self, step: int, n: int, seed: tuple[int, ...], account: Row, counter: str
    ) -> tuple[list[list[Draw]], list[list[Evaluation]]]:
        cache, computed, began = self.evaluator.cache, self.engine.computed_tokens, time.monotonic()
        with refusing_what_is_not_finite(f"{self.name} step {step}", "lower `lr`"):
            options = self.draws.model_dump()
            draws = draw_together(self.processes, self.engine, self.tasks, n, self.prompt, **options, seed=seed)
        sampled, known, measured = time.monotonic(), cache.hits, cache.misses
        flat = [one for of_task in draws for one in of_task]
        candidates = [Candidate(one.task, one.source) for one in flat]
        verdicts = iter(self.processes.from_first(lambda: self.evaluator.evaluate(candidates)))
        known, measured = cache.hits - known, cache.misses - measured
        tokens = sum(
            len(prompt) + len(one.completion.token_ids)
            for prompt, of_task in zip(self.prompts, draws, strict=True)
            for one in of_task
        )
        for key, value in {
            counter: len(flat),
            "student_tokens" if counter == "rollouts" else "fresh_tokens": tokens,
            "sampling_computed": int(self.processes.sum(self.engine.computed_tokens - computed)),
            "sampling_s": sampled - began,
            "evaluating_s": time.monotonic() - sampled,
            "known": known,
            "measured": measured,
        }.items():
            account[key] += value
        log(
            f"{self.name} step {step}: {len(flat)} {counter.replace('_', ' ')}, {known + measured} distinct candidates: "
            f"{known} known, {measured} measured"
        )
        return draws, [[next(verdicts) for _ in of_task] for of_task in draws]

    def _rewards(self, task_id: int, speedups: list[float]) -> list[float]:
        if self.run.reward == "normalised":
            return self._normalised.rewards(task_id, speedups)
        if self.run.reward == "sparse":
            return [float(speedup > self.run.threshold) for speedup in speedups]
        return speedups

    def observe(self, rollouts: Sequence[Row]) -> None:
        """Take note of the speedups of an earlier step, when a run goes on."""
        for row in rollouts:
            self._normalised.observe(row["task_id"], [row["speedup"]])

    def _rows(
        self,
        step: int,
        draws: list[list[Draw]],
        verdicts: list[list[Evaluation]],
        rewards: Sequence[Sequence[float | None]],
        advantages: Sequence[Sequence[float | None]],
    ) -> tuple[list[Row], list[Row]]:
        rollouts, evaluations = [], []
        for t, of_task in enumerate(draws):
            for k, one in enumerate(of_task):
                verdict = {name: getattr(verdicts[t][k], name) for name in artifacts.EVALUATION_COLUMNS}
                common = self._labels(step) | {"task_id": one.task.task_id, "candidate_sha256": one.sha256}
                evaluations.append(common | verdict | {"seed": self.run.seed, "sample": k})
                rollouts.append(
                    common
                    | {
                        "rollout": k,
                        "completion": one.text,
                        "token_ids": one.completion.token_ids,
                        "sampled_logprobs": one.completion.tempered_logprobs,
                        "entropy": one.completion.entropy,
                        "reward": rewards[t][k],
                        "advantage": advantages[t][k],
                        "token_advantages": None,
                        "prompt_tokens": len(self.prompts[t]),
                        "context_tokens": 0,
                    }
                    | {name: verdict[name] for name in ("status", "speedup", "speedup_low")}
                )
        return rollouts, evaluations

    # --- scoring ----------------------------------------------------------------------------------------------------

    def score(self, rollouts: Sequence[Row], evaluations: Sequence[Row], account: Row) -> None:
        """Complete the advantages of a step with what a teacher, or the policy of the start, makes of its rollouts."""
        if not self.run.needs_scoring:
            return
        began = time.monotonic()
        with counted_tokens(self.policy.model) as computed:
            if self.run.method.teacher:
                scored_T = self._logprobs(self._contexts(rollouts, evaluations), rollouts, account)
                for row, teacher_T in zip(rollouts, scored_T, strict=True):
                    self._weigh(
                        row, self.run.method.estimate(teacher_T, row["sampled_logprobs"], **self.run.parameters)
                    )
            elif account["step"] > 0:  # at the start the two are the same
                of_task = {task.task_id: tuple(prompt) for task, prompt in zip(self.tasks, self.prompts, strict=True)}
                with self._at_start():
                    scored_T = self._logprobs([of_task[row["task_id"]] for row in rollouts], rollouts, account)
                for row, start_T in zip(rollouts, scored_T, strict=True):
                    penalties = divergence_penalty(row["sampled_logprobs"], start_T, self.run.kl_penalty)
                    self._weigh(row, [row["advantage"] + penalty for penalty in penalties])
        account["scoring_computed"] += computed.tokens
        account["scoring_s"] += time.monotonic() - began

    @staticmethod
    def _weigh(row: Row, advantages: list[float]) -> None:
        row |= {"token_advantages": advantages, "advantage": fmean(advantages)}

    def _contexts(self, rollouts: Sequence[Row], evaluations: Sequence[Row]) -> list[tuple[int, ...]]:
        """Token ids of the teacher's context of each rollout."""
        by_id = {task.task_id: task for task in self.tasks}

        @cache
        def source(task_id: int, text: str) -> str:
            return candidate_source(by_id[task_id].reference_source, text, self.prompt.action)

        @cache
        def tokens(task_id: int, then: str) -> tuple[int, ...]:
            reference = by_id[task_id].reference_source
            return tuple(prompt_tokens(self.policy.tokenizer, reference, self.prompt, then=then))

        contexts: dict[int, tuple[int, ...]] = {}
        for task_id in by_id:
            own = [i for i, row in enumerate(rollouts) if row["task_id"] == task_id]
            attempts = []
            for i in own:
                text, sha256 = rollouts[i]["completion"], rollouts[i]["candidate_sha256"]
                attempts.append(Attempt(text, source(task_id, text), sha256, evaluations[i]))
            feedback = self.run.method.teacher == "feedback"
            shown = hindsight(attempts, feedback=feedback, solution=feedback and self.run.solution)
            contexts |= {i: tokens(task_id, then) for i, then in zip(own, shown, strict=True)}
        for i, context in contexts.items():
            rollouts[i]["context_tokens"] = len(context)
        return [contexts[i] for i in range(len(rollouts))]

    def _logprobs(
        self, contexts: Sequence[tuple[int, ...]], rollouts: Sequence[Row], account: Row
    ) -> list[list[float]]:
        """Log-probs of the tokens of each rollout after its context, at the temperature of sampling."""
        users: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, context in enumerate(contexts):
            users[context].append(i)
            account["teacher_tokens"] += len(context) + len(rollouts[i]["token_ids"])
        completions = [[rollouts[i]["token_ids"] for i in group] for group in users.values()]
        with torch.no_grad():
            scored = completion_logprobs(
                self.policy.model, list(users), completions, temperature=self.draws.temperature
            )
        result: dict[int, list[float]] = {}
        for group, of_context in zip(users.values(), scored, strict=True):
            result |= {i: logprobs_T.tolist() for i, logprobs_T in zip(group, of_context, strict=True)}
        return [result[i] for i in range(len(rollouts))]

    @contextmanager
    def _at_start(self) -> Iterator[None]:
        """The policy with the weights of the run's start for the duration."""
        model = self.policy.model
        now = {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}
        set_peft_model_state_dict(model, load_file(self.start / "adapter_model.safetensors"))
        try:
            yield
        finally:
            set_peft_model_state_dict(model, now)

    # --- update -----------------------------------------------------------------------------------------------------

    def update(self, rollouts: Sequence[Row], account: Row) -> None:
        """One optimiser step on the rollouts of the step before that of `account`."""
        began = time.monotonic()
        with counted_tokens(self.policy.model) as computed:
            done = importance_sampling_step(
                self.policy.model,
                self.optimizer,
                self.prompts,
                rollouts_of(rollouts, [task.task_id for task in self.tasks]),
                temperature=self.draws.temperature,
                importance_cap=self.run.importance_cap,
                where=f"{self.name} step {account['step'] - 1}",
                processes=self.processes,
            )
        account |= {"loss": done.loss, "gradient_norm": done.gradient_norm, **done.gaps}
        account["update_computed"] += int(self.processes.sum(computed.tokens))
        account["update_s"] += time.monotonic() - began
