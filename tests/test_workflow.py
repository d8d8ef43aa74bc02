"""The DAG itself: what reruns after which change, read from dry runs as data; and what a wrong configuration says."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workflow_copies import ROOT, checkout, edit, finished, planned, snakemake

from expert_tail import code_digest

__all__ = ["checkout", "finished"]  # fixtures

TARGET = "results/table3.csv"
STAGES = [
    "tasks",
    "fetch_policy",
    "rlvr_train",
    "sample_k64",
    "compile_and_time",
    "gather_evaluations",
    "score_logprobs",
    "select",
    "aggregate",
]


def stages(folder: Path, *arguments: str) -> dict[str, int]:
    """Jobs of the main stages that the main target would run."""
    return {rule: n for rule, n in planned(folder, TARGET, *arguments).items() if rule in STAGES}


def test_first_run_executes_every_stage_once_per_subset_and_seed(checkout: Path) -> None:
    per_seed = {"sample_k64": 2, "compile_and_time": 2, "score_logprobs": 2, "select": 2}
    once = {"tasks": 1, "fetch_policy": 1, "rlvr_train": 1, "aggregate": 1}
    assert stages(checkout) == once | per_seed


@pytest.mark.parametrize("how", [["--config", "evaluations={'shards': 3}"], ["--set-scatter", "evaluations=3"]])
def test_evaluation_is_sharded_where_asked_to(checkout: Path, how: list[str]) -> None:
    jobs = stages(checkout, *how)
    assert (jobs["compile_and_time"], jobs["gather_evaluations"], jobs["select"]) == (6, 2, 2)


def test_other_shards_sample_and_train_nothing_again(finished: Path) -> None:
    jobs = stages(finished, "--set-scatter", "evaluations=2")
    assert set(jobs) == {"compile_and_time", "gather_evaluations", "select", "aggregate"}


def test_edited_evaluator_reruns_evaluation_and_what_follows_only(finished: Path) -> None:
    edit(finished / "src/expert_tail/evaluator/correctness.py", "RTOL = 1e-4", "RTOL = 2e-4")
    assert set(stages(finished)) == {"compile_and_time", "select", "aggregate"}


def test_edited_evaluator_retrains_where_the_config_says_so(finished: Path) -> None:
    assert "rlvr_train" in stages(finished, "--config", "rlvr={retrain_on_evaluator_change: true}")


def test_edited_strategy_reruns_selection_only(finished: Path) -> None:
    edit(finished / "src/expert_tail/select/strategies.py", '"surprisal", 3', '"surprisal", 4')
    assert set(stages(finished)) == {"select", "aggregate"}


def test_comment_docstring_and_touch_rerun_nothing(finished: Path) -> None:
    time.sleep(0.05)
    for file in (finished / "src").rglob("*.py"):
        file.touch()
    file = finished / "src/expert_tail/evaluator/timing.py"
    file.write_text(file.read_text().replace('"""How fast?', '"""How very fast?', 1) + "# a comment\n")
    assert planned(finished, TARGET) == {}


def test_changed_temperature_resamples_but_does_not_retrain(finished: Path) -> None:
    jobs = stages(finished, "--config", "sampling={'temperature': 0.5}")
    assert "sample_k64" in jobs
    assert "rlvr_train" not in jobs


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("sampling={'kk': 3}", "unknown key `sampling.kk`; did you mean `k`?"),
        ("samplings={'k': 3}", "unknown key `samplings`; did you mean `sampling`?"),
        ("sampling={'k': 0}", "`sampling.k`"),
        ("sampling={'seeds': [42, 42]}", "42 is listed twice"),
        ("sampling={'subsets': ['subset9']}", "`subset9`"),
        ("select={'strategies': ['suprisal-guided']}", "surprisal-guided"),
    ],
)
def test_wrong_configuration_is_one_line_that_names_the_key(checkout: Path, config: str, message: str) -> None:
    done = snakemake(checkout, TARGET, "--config", config)
    assert done.returncode != 0
    assert [message in line for line in (done.stdout + done.stderr).splitlines()].count(True) == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert not (checkout / "artifacts").exists()  # no job was started


def test_every_job_that_a_cluster_runs_asks_for_memory_and_time(checkout: Path) -> None:
    done = snakemake(checkout, "all", "-n", "--set-scatter", "evaluations=2")
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = re.findall(r"^rule (\w[\w-]*):\n((?: .*\n)+)", done.stdout, re.MULTILINE)
    assert {"select", "gather_evaluations", "pareto", "report_page", "nll_probe"} <= {rule for rule, _ in jobs}
    lacking = {rule for rule, said in jobs if not ("mem_mb=" in said and "runtime=" in said)}
    assert lacking <= {"all", "tasks", "record_config"}  # these run where Snakemake does


def test_parsing_imports_no_torch(checkout: Path) -> None:
    code = "import expert_tail.config, expert_tail.cli, expert_tail.code_digest, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_code_has_one_digest_under_every_python() -> None:
    """What is watched is written in full here, and Python's own fields that it leaves empty are not in it."""
    tree = ast.parse("def f(x: int = 0, *, y=None):\n    return f'{x!r:>4}-' 'b'\n")
    arguments = (
        "arguments(args=[arg(annotation=Name(ctx=Load(), id='int'), arg='x')], defaults=[Constant(value=0)], "
        "kw_defaults=[Constant()], kwonlyargs=[arg(arg='y')])"
    )
    formatted = (
        "JoinedStr(values=[FormattedValue(conversion=114, format_spec=JoinedStr(values=[Constant(value='>4')]), "
        "value=Name(ctx=Load(), id='x')), Constant(value='-b')])"
    )
    function = f"FunctionDef(args={arguments}, body=[Return(value={formatted})], name='f')"
    assert code_digest._dump(tree) == f"Module(body=[{function}])"


def test_schema_file_is_that_of_the_code() -> None:
    from expert_tail.config import schema_yaml

    assert (ROOT / "schemas/config.schema.yaml").read_text() == schema_yaml(), (
        "run `python -m expert_tail.config > schemas/config.schema.yaml`"
    )
