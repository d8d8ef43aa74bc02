"""Adaptation runs on the real default policy at their smallest: what they write, how they end, and how they go on."""

import json
import math
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from injection import expert_tail, kill_9, started
from injection import run as run_command
from safetensors.torch import load_file

from expert_tail import artifacts
from expert_tail.adapt.objectives import entropic
from expert_tail.adapt.settings import AdaptationSettings, Run
from expert_tail.adapt.stage import run as adapt
from expert_tail.adapt.teacher import INSTRUCTION, Attempt, feedback_block, hindsight, without_code
from expert_tail.best_of_adaptation.best import Stop, affordable, best_step, early_stop
from expert_tail.best_of_adaptation.stage import run as best_of_adaptation
from expert_tail.cli import main
from expert_tail.errors import UserError
from expert_tail.evaluator.settings import EvaluatorSettings
from expert_tail.policy.draw import prompts_of
from expert_tail.policy.load import add_lora, load_policy, save_adapter
from expert_tail.policy.settings import DrawSettings, LoraSettings, PromptSettings, RuntimeSettings
from expert_tail.tasks.settings import TaskSettings
from expert_tail.tasks.stage import run as write_tasks
from expert_tail.tasks.stage import tasks_of

RUNTIME, PROMPT = RuntimeSettings(device="cpu"), PromptSettings()
EVALUATOR = EvaluatorSettings(correctness_trials=1, min_pairs=6, max_pairs=6)
DRAWS = DrawSettings(temperature=0.9, max_tokens=16)


@dataclass
class World:
    """Inputs of adaptation runs, and a cache of evaluations that all of them share."""

    folder: Path
    policy: Path

    @property
    def tasks(self) -> Path:
        return self.folder / "tasks.parquet"

    @property
    def adapter(self) -> Path:
        return self.folder / "start" / "step=0"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def adapt(self, output: Path, draws: DrawSettings = DRAWS, adapter: Path | None = None, **settings: Any) -> None:
        run = Run(**{"subset": "pair", "rollouts": 4, "steps": 1, "lr": 1e-3} | settings)
        start = adapter or self.adapter
        paths = dict(tasks=self.tasks, policy=self.policy, adapter=start, state=output / "state", output=output)
        adapt(run, draws, PROMPT, RUNTIME, EVALUATOR, **paths)

    def command(self, output: Path, run: Run, processes: int = 1, shards: int = 1) -> list[str]:
        paths = dict(tasks=self.tasks, policy=self.policy, adapter=self.adapter, state=output / "state", output=output)
        sections = {"run": run, "sampling": DRAWS, "prompt": PROMPT, "evaluator": EVALUATOR}
        sections["policy"] = RUNTIME.model_copy(update={"shards": shards})
        flags = " ".join(settings.flags(section) for section, settings in sections.items())
        return [
            "env",
            "OMP_NUM_THREADS=1",
            *expert_tail(
                f"--processes={processes}",
                "adapt",
                *(f"--{name}={path}" for name, path in paths.items()),
                *shlex.split(flags),
            ),
        ]


@pytest.fixture(scope="module")
def world(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("adapt"), smollm2)
    write_tasks(TaskSettings(subsets={"pair": [5, 19]}), made.tasks)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so few rows gain little from a second one, and much is lost where other tests run
    save_adapter(add_lora(load_policy(smollm2, RUNTIME), LoraSettings(rank=4), seed=1), made.adapter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPERT_TAIL_CACHE", str(made.cache))
        yield made
    torch.set_num_threads(threads)


def rows(folder: Path, step: int, name: str) -> list[dict[str, Any]]:
    kind = {"account": "accounts"}.get(name, f"adapt_{name.removeprefix('fresh_')}")
    return artifacts.read(folder / f"step={step}" / f"{name}.parquet", kind).to_pylist()


@pytest.fixture(scope="module")
def grpo(world: World) -> Path:
    """A run of two updates with fresh validation."""
    output = world.folder / "grpo"
    world.adapt(output, steps=2, validation="fresh", fresh_rollouts=3)
    return output


# --- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_every_step_as_artifacts(world: World, grpo: Path) -> None:
    for step in range(3):
        rollouts, evaluations = rows(grpo, step, "rollouts"), rows(grpo, step, "evaluations")
        assert [(row["task_id"], row["rollout"]) for row in rollouts] == [(t, k) for t in (5, 19) for k in range(4)]
        keys = ("task_id", "candidate_sha256", "status", "speedup", "objective", "lr", "step")
        assert [[row[key] for key in keys] for row in rollouts] == [[row[key] for key in keys] for row in evaluations]
        assert {(row["objective"], row["lr"], row["step"]) for row in rollouts} == {("grpo", 1e-3, step)}
        assert len(rows(grpo, step, "fresh_rollouts")) == len(rows(grpo, step, "fresh_evaluations")) == 6
        (account,) = rows(grpo, step, "account")
        tokens = sum(row["prompt_tokens"] + len(row["token_ids"]) for row in rollouts)
        assert account["student_tokens"] == tokens
        assert 0 < account["sampling_computed"] < tokens + account["fresh_tokens"]
        assert account["teacher_tokens"] == account["scoring_computed"] == 0
        assert (account["update_computed"] > 0) == (step > 0 and account["loss"] != 0)
        load_policy(world.policy, RUNTIME, grpo / f"step={step}")


def test_advantages_are_those_of_all_rollouts_together(grpo: Path) -> None:
    rewards = [row["reward"] for row in rows(grpo, 0, "rollouts")]
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    expected = [(reward - mean) / deviation if deviation else 0.0 for reward in rewards]
    assert [row["advantage"] for row in rows(grpo, 0, "rollouts")] == pytest.approx(expected)


def test_the_start_is_step_0_and_updates_change_the_adapter(world: World, grpo: Path) -> None:
    weights = [(grpo / f"step={n}" / "adapter_model.safetensors").read_bytes() for n in range(3)]
    assert weights[0] == (world.adapter / "adapter_model.safetensors").read_bytes()
    learnt = [any(row["advantage"] for row in rows(grpo, step, "rollouts")) for step in range(2)]
    assert any(learnt), "nothing was learnt, so that this test shows nothing"
    assert [weights[n] != weights[n + 1] for n in range(2)] == learnt


def test_what_was_measured_is_not_measured_again(
    world: World, grpo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another objective from the same start and seed writes the same first rollouts."""
    world.adapt(tmp_path / "again", objective="trloo", steps=0)
    assert rows(tmp_path / "again", 0, "account")[0]["measured"] == 0
    seen = {(row["task_id"], row["candidate_sha256"]) for row in rows(grpo, 0, "rollouts")}
    assert f"again step 0: 8 rollouts, {len(seen)} distinct candidates: {len(seen)} known, 0 measured" in (
        capsys.readouterr().err
    )


def test_killed_run_goes_on_and_writes_what_an_uninterrupted_one_writes(
    world: World, grpo: Path, tmp_path: Path
) -> None:
    run = Run(subset="pair", rollouts=4, steps=1, lr=1e-3)
    output = tmp_path / "grpo"
    with started(world.command(output, run), world.cache, tmp_path / "log") as process:
        while not (output / "step=0" / "rollouts.parquet").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        kill_9(process)
    first = next(output.rglob("step=0000/evaluations.parquet")).stat().st_mtime_ns
    assert not (output / "step=1").exists()
    done = run_command(world.command(output, run), world.cache)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "adapt grpo: going on after step" in done.stderr
    assert next(output.rglob("step=0000/evaluations.parquet")).stat().st_mtime_ns >= first
    for step in range(2):
        for killed, whole in zip(rows(output, step, "rollouts"), rows(grpo, step, "rollouts"), strict=True):
            assert killed.pop("sampled_logprobs") == pytest.approx(whole.pop("sampled_logprobs"), abs=1e-3)
            assert killed.pop("entropy") == pytest.approx(whole.pop("entropy"), abs=1e-3)
            assert killed == whole
        losses = [rows(folder, step, "account")[0]["loss"] for folder in (output, grpo)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.mark.slow
def test_self_distillation_scores_in_hindsight_and_a_longer_run_goes_on(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sdpo"
    sdpo: dict[str, Any] = dict(objective="sdpo_feedback", beta=0.5)
    world.adapt(output, steps=0, **sdpo)
    (unscored,) = rows(output, 0, "account")
    assert unscored["teacher_tokens"] == 0, "no update follows the last step"
    assert {row["advantage"] for row in rows(output, 0, "rollouts")} == {None}
    world.adapt(output, steps=1, **sdpo)
    assert "sdpo: going on after step 0" in capsys.readouterr().err
    (account,), rollouts = rows(output, 0, "account"), rows(output, 0, "rollouts")
    assert account["teacher_tokens"] == sum(row["context_tokens"] + len(row["token_ids"]) for row in rollouts)
    assert 0 < account["scoring_computed"] < account["teacher_tokens"]
    for row in rollouts:
        assert row["context_tokens"] > row["prompt_tokens"]
        assert len(row["token_advantages"]) == len(row["token_ids"])
        assert row["advantage"] == pytest.approx(sum(row["token_advantages"]) / len(row["token_ids"]))
    assert any(abs(row["advantage"]) > 1e-3 for row in rollouts)
    assert rows(output, 1, "account")[0]["gradient_norm"] > 0
    assert rows(output, 1, "account")[0]["teacher_tokens"] == 0
    world.adapt(output, steps=0, **sdpo)  # shorter again: nothing is left to be trained, and nothing is lost
    assert rows(output, 1, "account")[0]["gradient_norm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shards", "objective"),
    [
        (1, {"objective": "sdpo_feedback"}),
        (2, {"objective": "sdpo_feedback"}),
        (2, {"objective": "entropic", "kl_penalty": 0.1, "reward": "speedup"}),
    ],
    ids=["whole", "divided", "divided and scored at its start"],
)
def test_two_processes_make_one_run_and_go_on_with_it(
    world: World, grpo: Path, tmp_path: Path, shards: int, objective: dict[str, Any]
) -> None:
    output, settings = tmp_path / "run", {"subset": "pair", "rollouts": 4, "lr": 1e-3} | objective
    for steps in (1, 2):
        command = world.command(output, Run(**settings, steps=steps), processes=2, shards=shards)
        done = run_command(command, world.cache)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count(f"adapt run: {steps + 1}/{steps + 1}") == 1  # one of them reports
    drawn = [
        [(row["task_id"], row["rollout"], row["token_ids"]) for row in rows(folder, 0, "rollouts")]
        for folder in (output, grpo)
    ]
    assert drawn[0] == drawn[1]  # what one process draws, whatever is learned from it
    weights = [load_file(output / f"step={step}" / "adapter_model.safetensors") for step in range(3)]
    assert all(any(not torch.equal(one[name], other[name]) for name in one) for one, other in pairwise(weights))
    (account,) = rows(output, 1, "account")
    assert account["teacher_tokens"] > 0


@pytest.mark.slow
def test_single_task_penalised_entropic_run(world: World, tmp_path: Path) -> None:
    output = tmp_path / "isolated"
    world.adapt(output, subset=None, task=5, objective="entropic", steps=2, kl_penalty=0.1, reward="speedup")
    start, after = rows(output, 0, "rollouts"), rows(output, 1, "rollouts")
    assert {row["task_id"] for row in start} == {5}
    assert all(row["token_advantages"] is None for row in start), "at the start there is nothing to stay near to"
    assert rows(output, 1, "account")[0]["teacher_tokens"] > 0
    policy, (task,) = load_policy(world.policy, RUNTIME, world.adapter), tasks_of(world.tasks, "pair")[:1]
    (prompt,) = prompts_of(policy.tokenizer, [task], PROMPT)
    for row, weight in zip(after, entropic([row["reward"] for row in after]), strict=True):
        ids = torch.tensor([[*prompt, *row["token_ids"]]])
        logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double() / DRAWS.temperature
        start_T = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()
        expected = [weight - 0.1 * (now - at) for now, at in zip(row["sampled_logprobs"], start_T, strict=True)]
        assert row["token_advantages"] == pytest.approx(expected, abs=1e-4)
    if any(row["advantage"] for row in start):
        assert any(len(set(row["token_advantages"])) > 1 for row in after)


def test_sparse_rewards_are_one_above_the_threshold(world: World, grpo: Path, tmp_path: Path) -> None:
    speedups = sorted({row["speedup"] for row in rows(grpo, 0, "evaluations")})
    assert len(speedups) > 1, "all speedups are equal, so that this test shows nothing"
    world.adapt(tmp_path / "sparse", reward="sparse", threshold=speedups[-2], steps=0)
    found = {(row["speedup"], row["reward"]) for row in rows(tmp_path / "sparse", 0, "rollouts")}
    assert found == {(speedup, float(speedup == speedups[-1])) for speedup in speedups}


# --- bad input -----------------------------------------------------------------------------------------------------


def test_step_without_a_correct_rollout_says_so_and_the_run_goes_on(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.adapt(tmp_path / "short", DrawSettings(temperature=0.9, max_tokens=1), steps=1)
    printed = capsys.readouterr().err
    assert "short step 0: none of the 8 rollouts is correct" in printed
    assert "short step 0: all rewards are equal, so there is nothing to learn from" in printed
    weights = [(tmp_path / f"short/step={n}/adapter_model.safetensors").read_bytes() for n in range(2)]
    assert weights[0] == weights[1]


def test_diverging_run_is_named_and_keeps_its_trajectory(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wild step 1: .*not finite.*lower `lr`; step 0 is kept in ") as caught:
        world.adapt(tmp_path / "wild", lr=1e30, objective="sdpo_prompt", steps=3)
    kept = Path(str(caught.value).rpartition("kept in ")[2])
    assert len(artifacts.read(kept / "step=0000" / "rollouts.parquet", "adapt_rollouts")) == 8
    assert len(rows(tmp_path / "wild", 0, "evaluations")) == 8


def test_loss_that_is_not_a_number_keeps_the_trajectory(world: World, grpo: Path, tmp_path: Path) -> None:
    """Log-probs on disk that someone has damaged: the update made from them is refused."""
    output = tmp_path / "damaged"
    world.adapt(output, steps=0)
    file = next(output.rglob("step=0000/rollouts.parquet"))
    damaged = artifacts.read(file, "adapt_rollouts").to_pylist()
    for row in damaged:
        row |= {"sampled_logprobs": [math.nan] * len(row["token_ids"]), "advantage": 1.0}
    artifacts.write(file, "adapt_rollouts", damaged)
    with pytest.raises(UserError, match=r"damaged step 0: loss nan .* lower the learning rate; step 0 is kept in"):
        world.adapt(output, steps=1)


def test_adapter_of_another_policy_is_refused(world: World, tmp_path: Path) -> None:
    foreign = shutil.copytree(world.adapter, tmp_path / "foreign" / "step=4")
    (foreign / "policy.json").write_text(json.dumps({"name": "other-7b", "weights": "abc"}))
    with pytest.raises(UserError, match="adapts other weights of other-7b than those of smollm2"):
        world.adapt(tmp_path / "run", adapter=foreign)


def test_wrong_input_after_a_first_step_leaves_the_trajectory(world: World, tmp_path: Path) -> None:
    output = tmp_path / "run"
    world.adapt(output, steps=0)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    command = world.command(output, Run(subset="pair", rollouts=4, steps=1, lr=1e-3))
    named = run_command([*command, "--run.objective=gropo"], world.cache)
    assert named.returncode == 2
    assert "unknown objective `gropo`; did you mean `grpo`?" in named.stderr
    foreign = shutil.copytree(world.adapter, tmp_path / "foreign" / "step=4")
    (foreign / "policy.json").write_text(json.dumps({"name": "other-7b", "weights": "abc"}))
    with pytest.raises(UserError, match="adapts other weights of other-7b"):
        world.adapt(output, adapter=foreign)
    assert {path: path.read_bytes() for path in before} == before
    world.adapt(output, steps=1)
    assert len(rows(output, 1, "rollouts")) == 8


def test_task_that_is_not_there_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tasks.parquet has no task 999"):
        world.adapt(tmp_path / "run", subset=None, task=999)


RUN: dict[str, Any] = {"subset": "s"}


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"a": RUN | {"objective": "gropo"}}, "unknown objective `gropo`; did you mean `grpo`?"),
        ({"a": RUN | {"objektive": "grpo"}}, "unknown key `adaptation.runs.a.objektive`; did you mean `objective`?"),
        ({"a": RUN | {"start": {"runn": "a"}}}, "`adaptation.runs.a.start.runn`; did you mean `run`?"),
        ({"a": {}}, "a `subset` or on a single `task`"),
        ({"a": RUN | {"task": 5}}, "a `subset` or on a single `task`"),
        ({"a": RUN | {"beta": 2}}, "`beta` has no meaning for grpo, only for sdpo_prompt, sdpo_feedback"),
        ({"a": RUN | {"objective": "sdpo_prompt", "reward": "sparse"}}, "`reward` has no meaning for sdpo_prompt"),
        ({"a": RUN | {"threshold": 1.5}}, "`threshold` has a meaning for `reward: sparse` only"),
        (
            {"a": RUN | {"reward": "speedup", "reward_window": 8}},
            "`reward_window` has a meaning for `reward: normalised`",
        ),
        ({"a": RUN | {"fresh_rollouts": 8}}, "`fresh_rollouts` has a meaning for `validation: fresh` only"),
        ({"a": RUN | {"objective": "entropic", "rollouts": 2}}, "takes more than 2 rollouts"),
        ({"a b": RUN}, "`a b` cannot name a run"),
        ({"a": RUN | {"start": {"run": "bb"}}, "b": RUN}, "`a` starts from `bb`, which `runs` has not"),
        (
            {"a": RUN | {"start": {"run": "b"}}, "b": RUN | {"start": {"run": "a"}}},
            "starts from itself: a from b from a",
        ),
        ({"a": RUN | {"start": {"run": "b", "step": 9}}, "b": RUN}, "starts from step 9 of `b`, which ends at 4"),
    ],
)
def test_wrong_runs_are_named(runs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        AdaptationSettings.checked({"runs": runs}, where="adaptation")
    assert message in str(caught.value)


# --- choosing a step -----------------------------------------------------------------------------------------------


def test_best_step_by_hand() -> None:
    assert best_step([0.375, 0.4, 0.425, 0.363, 0.363, 0.413]) == 2  # the paper's trajectory of seed 42
    assert best_step([0.438, 0.469, 0.344, 0.438, 0.406, 0.469]) == 1  # its task 15: the earliest of a tie
    assert best_step([0.3]) == 0


def test_early_stopping_by_hand() -> None:
    scores = [0.375, 0.4, 0.425, 0.363, 0.363, 0.413]
    assert early_stop(scores, 1) == Stop(step=2, last=3)
    assert early_stop([0.5, 0.4, 0.6], 1) == Stop(step=0, last=1)
    assert early_stop([0.5, 0.4, 0.6], 2) == Stop(step=2, last=2)
    assert early_stop([0.5, 0.5, 0.5, 0.9], 2) == Stop(step=0, last=2)
    assert early_stop([0.1, 0.2], 5) == Stop(step=1, last=1)


def test_affordable_steps_by_hand() -> None:
    assert affordable([32] * 5, 64) == 2  # steps 0 and 1, as in the paper's equal-budget protocol
    assert affordable([32] * 5, 31) == 0
    assert affordable([4, 4], 100) == 2


def test_best_of_adaptation_gives_the_adapter_of_the_best_step(world: World, grpo: Path, tmp_path: Path) -> None:
    files = [grpo / f"step={n}" / "evaluations.parquet" for n in (2, 0, 1)]
    given = ["best_of_adaptation", "--evaluations", *map(str, files), "--output", str(tmp_path / "boa")]
    assert main(given) == 0
    scores = [sum(row["speedup"] > 1 for row in rows(grpo, step, "evaluations")) for step in range(3)]
    chosen = grpo / f"step={best_step(scores)}"
    for file in (tmp_path / "boa").iterdir():
        assert file.read_bytes() == (chosen / file.name).read_bytes()
    load_policy(world.policy, RUNTIME, tmp_path / "boa")
    with pytest.raises(UserError, match="no trajectory from 0"):
        best_of_adaptation(files[:2], tmp_path / "boa")


# --- teacher -------------------------------------------------------------------------------------------------------

CODE = "return torch.triu(A, B)"
SOURCE = f"class ModelNew(Model):\n\n    def forward(self, A, B):\n        {CODE}\n"


def verdict(**changes: Any) -> dict[str, Any]:
    row = dict(status="correct", reason="", error="", speedup=1.25, kernel_ms=0.8, baseline_ms=1.0)
    return row | changes


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (f"line 8: {CODE}\nTypeError: triu(): not a Tensor", "line 8 | TypeError: triu(): not a Tensor"),
        (f'File "/tmp/x/candidate.py", line 8\n    {CODE}\n     ^^^^^\nSyntaxError: bad', "line 8 | SyntaxError: bad"),
        (f"line 8: {CODE[:14]}\nValueError: {CODE} failed", "line 8 | ValueError: … failed"),
        ("", ""),
        ("one\ntwo\nthree\nfour", "one | two | three"),
    ],
)
def test_errors_lose_the_code_they_quote(error: str, expected: str) -> None:
    assert without_code(error, [CODE, SOURCE]) == expected


def test_feedback_names_the_verdict() -> None:
    assert feedback_block(verdict(), [CODE]).splitlines() == [
        "status: success",
        "compiled: yes",
        "correct: yes",
        "speedup: 1.2500",
        "runtime_us: 800.00",
        "reference_runtime_us: 1000.00",
    ]
    failed = verdict(status="runtime_error", speedup=0.0, kernel_ms=None, baseline_ms=None, error=f"line 8: {CODE}")
    assert "status: runtime_error\ncompiled: yes\ncorrect: no" in feedback_block(failed, [CODE])
    assert CODE not in feedback_block(failed, [CODE])
    assert "status: correct_but_slow" in feedback_block(verdict(speedup=1.0), [CODE])
    assert len(without_code("x" * 1000, [])) == 300


def test_the_teacher_never_sees_the_students_own_code() -> None:
    wrong = verdict(status="incorrect", reason="wrong_values", speedup=0.0)
    attempts = [
        Attempt("return A + B", "A + B", "sum", wrong),
        Attempt("return A * B", "A * B", "product", verdict()),
        Attempt("return A*B", "A * B", "product", verdict()),
        Attempt("return B * A", "B * A", "swapped", verdict()),
    ]
    shown = hindsight(attempts, feedback=True, solution=True)
    assert "A correct solution:\nreturn A * B\n\n" in shown[0]
    assert "return B * A" in shown[1]
    assert "return B * A" in shown[2]
    assert "return A * B" in shown[3]
    for attempt, text in zip(attempts, shown, strict=True):
        assert attempt.text not in text
        assert "status: " in text
        assert text.endswith(INSTRUCTION)
    assert all("solution" not in text for text in hindsight(attempts, feedback=True, solution=False))
    assert set(hindsight(attempts, feedback=False, solution=False)) == {INSTRUCTION}
    assert all("solution" not in text for text in hindsight(attempts[1:3], feedback=True, solution=True))
