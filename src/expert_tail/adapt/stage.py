"""One code path for every objective: sample, evaluate, reward, score in hindsight where asked, save; then update.

Step s is the checkpoint θ_s after s updates, with the rollouts sampled from it: its score is that of what it wrote. (The
paper's Algorithm 1 gives θ_s the score of the rollouts that θ_{s−1} wrote; its released code samples anew, as here.) A
step's folder holds all that the next update is made from, so a run that is killed or cannot go on keeps its trajectory.
"""

from contextlib import nullcontext
from pathlib import Path

from expert_tail import artifacts
from expert_tail.adapt.adaptation import Adaptation, Row
from expert_tail.adapt.settings import Run
from expert_tail.errors import UserError
from expert_tail.evaluator.evaluator import Evaluator
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.engine import chosen_engine, engine_of_policy
from expert_tail.policy.load import load_policy, save_adapter
from expert_tail.policy.settings import DrawSettings, PromptSettings, RuntimeSettings
from expert_tail.progress import log, progress
from expert_tail.tasks import Task
from expert_tail.tasks.stage import tasks_of
from expert_tail.training.processes import together
from expert_tail.training.steps import OPTIMIZER, Steps, restore, run_digest, save_optimizer


def run(
    run: Run,
    draws: DrawSettings,
    prompt: PromptSettings,
    runtime: RuntimeSettings,
    evaluator: EvaluatorSettings,
    tasks: Path,
    policy: Path,
    adapter: Path,
    state: Path,
    output: Path,
) -> None:
    """Adapt from `adapter`; or go on after the last finished step, if `state` holds steps of a run with the same inputs.

    Writes `output`/step={n} for n = 0 … `run.steps`; the folder's name is the run's. A longer run goes on from a shorter
    one. What cannot be gone on with is a `UserError` that says which steps are kept, and where.
    """
    chosen_engine(runtime)  # what cannot sample is said first
    name = output.name
    with together(runtime) as processes, artifacts.alone_in(state) if processes.is_first else nullcontext():
        chosen = _tasks(tasks, run)
        judge = Evaluator(evaluator)
        shaping = run.model_copy(update={"steps": 0, "start": None})
        steps = Steps(
            state
            / run_digest(
                "adapt.stage",
                *(shaping, draws, prompt, runtime.of_numbers(), tasks, policy, adapter, judge.digest),
            )
        )
        loaded = load_policy(policy, runtime, adapter, trainable=True)
        with (
            judge if processes.is_first else nullcontext(),
            progress(f"adapt {name}", run.steps + 1) as advance,
            engine_of_policy(loaded, runtime) as engine,
        ):
            adaptation = Adaptation(name, run, draws, prompt, chosen, loaded, engine, judge, adapter, processes)
            trajectory = _Trajectory(adaptation, steps, output)
            done = min(processes.from_first(steps.finished), run.steps + 1)
            try:
                rollouts = trajectory.resume(done) if done else []
                if done:
                    advance(done)
                for step in range(done, run.steps + 1):
                    rollouts = trajectory.take(step, rollouts)
                    advance(
                        fast_1=sum(row["speedup"] > 1 for row in rollouts) / len(rollouts),
                        correct=sum(row["status"] == "correct" for row in rollouts) / len(rollouts),
                        distinct=len({(row["task_id"], row["candidate_sha256"]) for row in rollouts}),
                    )
            except UserError as error:
                kept = steps.finished()
                raise UserError(f"{error}; {_kept(kept, steps.folder)}" if kept else str(error)) from error


def _kept(steps: int, folder: Path) -> str:
    return f"step 0 is kept in {folder}" if steps == 1 else f"steps 0 to {steps - 1} are kept in {folder}"


def _tasks(path: Path, run: Run) -> list[Task]:
    if run.subset is not None:
        return tasks_of(path, run.subset)
    rows = artifacts.read(path, "tasks", ["task_id", "split"]).to_pylist()
    found = [row["split"] for row in rows if row["task_id"] == run.task]
    if not found:
        raise UserError(f"{path} has no task {run.task}; `expert-tail tasks` lists those of a suite")
    return [task for task in tasks_of(path, found[0]) if task.task_id == run.task]


class _Trajectory:
    """The steps of a run as files: made one after the other, each published as soon as it is finished."""

    def __init__(self, adaptation: Adaptation, steps: Steps, output: Path) -> None:
        self.adaptation, self.run, self.steps, self.output = adaptation, adaptation.run, steps, output

    def resume(self, done: int) -> list[Row]:
        """Put everything back as it was after `done` steps; returns the rollouts of the last of them."""
        last = self.steps[done - 1]
        log(f"adapt {self.adaptation.name}: going on after step {done - 1}, as {self.steps.folder} holds it")
        for step in range(done):
            rollouts = self._read(step, "rollouts")
            self.adaptation.observe(rollouts)
        if done <= self.run.steps:  # there is more to be trained
            restore(self.adaptation.policy, self.adaptation.optimizer, self.steps, done - 1, last)
        for step in range(done):
            self._publish(step)
        # The last step of a shorter run has not been scored, as no update followed it.
        if done <= self.run.steps and self.run.needs_scoring and rollouts[0]["token_advantages"] is None:
            account = self.steps.read(done - 1, "account", "accounts").to_pylist()[0]
            self.adaptation.score(rollouts, self._read(done - 1, "evaluations"), account)
            self._write(last, "account", "accounts", [account])
            self._write(last, "rollouts", "adapt_rollouts", rollouts)
            self._publish(done - 1)
        return rollouts

    def take(self, step: int, rollouts: list[Row]) -> list[Row]:
        """Update from the rollouts of the step before, if there is one; then this step's own, saved and returned."""
        account = self.adaptation.account(step)
        if step > 0:
            self.adaptation.update(rollouts, account)
        rollouts, evaluations = self.adaptation.sample(step, account)
        fresh = self.adaptation.sample_afresh(step, account) if self.run.is_fresh else None
        if step < self.run.steps:
            self.adaptation.score(rollouts, evaluations, account)
        if self.adaptation.processes.is_first:
            self._save(step, rollouts, evaluations, fresh, account)
        return rollouts

    def _save(
        self,
        step: int,
        rollouts: list[Row],
        evaluations: list[Row],
        fresh: tuple[list[Row], list[Row]] | None,
        account: Row,
    ) -> None:
        with self.steps.making(step) as folder:
            save_adapter(self.adaptation.policy, folder)
            self._write(folder, "rollouts", "adapt_rollouts", rollouts)
            self._write(folder, "evaluations", "adapt_evaluations", evaluations)
            if fresh:
                self._write(folder, "fresh_rollouts", "adapt_rollouts", fresh[0])
                self._write(folder, "fresh_evaluations", "adapt_evaluations", fresh[1])
            self._write(folder, "account", "accounts", [account])
            save_optimizer(self.adaptation.optimizer, folder)
        if step > 1:
            (self.steps[step - 2] / OPTIMIZER).unlink(missing_ok=True)
        self._publish(step)

    def _write(self, folder: Path, name: str, kind: str, rows: list[Row]) -> None:
        if not self.adaptation.processes.is_first:
            return
        notes = {"run": self.adaptation.name, "settings": self.run.model_dump_json(), "subset": self.run.subset or ""}
        artifacts.write(folder / f"{name}.parquet", kind, rows, **notes, engine=self.adaptation.engine.name)

    def _read(self, step: int, name: str) -> list[Row]:
        return self.steps.read(step, name, f"adapt_{name}").to_pylist()

    def _publish(self, step: int) -> None:
        if not self.adaptation.processes.is_first:
            return
        artifacts.publish(self.steps[step], self.output / f"step={step}", without=[OPTIMIZER])
