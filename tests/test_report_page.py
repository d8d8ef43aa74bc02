"""The page about a run: its words against numbers, its content without a browser, and its explorer in a real Chromium."""

import base64
import gzip
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from expert_tail import artifacts, code_digest
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.cli import main
from expert_tail.config import parse_config
from expert_tail.errors import UserError
from expert_tail.figure_style import BLUE, save
from expert_tail.policy.action import candidate_sha256, candidate_source
from expert_tail.report_page import account, exhibits, explorer
from expert_tail.report_page.headline import headlines, holm, paired_p_value
from expert_tail.results import read_table, write_table
from expert_tail.select.settings import SelectSettings
from expert_tail.select.stage import run as select
from expert_tail.tasks import load_suite

SETTINGS = AggregateSettings(bootstrap=200)
ATTACK = "</script><script>alert(1)</script>"
HANDLER = "<img src=x onerror=alert(2)>"
COMPLETIONS = {  # completion: status, speedup, lower end, surprisal, times drawn
    "return torch.diag(A) @ B": ("correct", 0.98, 0.9, 0.5, 3),
    "return A.unsqueeze(1) * B": ("correct", 4.0, 3.6, 9.0, 1),
    f"return A + '{ATTACK}'": ("runtime_error", 0.0, None, 20.0, 1),
}


def blank(kind: str, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(artifacts.SCHEMAS[kind].names) | values


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of tasks 12 and 14, two seeds; on task 14 nothing is to be won, and the reference is all there is."""
    folder = tmp_path_factory.mktemp("world")
    suite = {task.task_id: task for task in load_suite("level1", "cpu") if task.task_id in (12, 14)}
    artifacts.write(
        folder / "tasks.parquet",
        "tasks",
        [
            blank("tasks", task_id=i, name=t.name, level=1, reference_source=t.reference_source, split="subset1")
            for i, t in suite.items()
        ],
    )
    for seed in (42, 43):
        write_cell(folder, suite, seed)
    artifacts.write(folder / "rollouts.parquet", "rollouts", [], evaluator="older")
    write_run(folder / "adapt" / "grpo-42", suite[12])
    verdicts = {12: "winnable", 14: "not winnable"}
    rows = [blank("headroom", task_id=i, verdict=verdict) for i, verdict in verdicts.items()]
    artifacts.write(folder / "headroom" / "subset1.parquet", "headroom", rows)

    config = parse_config(yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text()))
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    frame = {"task_id": [12, 14], "name": ["diag", HANDLER], "fast_1": [0.5, 0.25]}
    frame |= {"fast_1_low": [0.25, 0.0], "fast_1_high": [0.75, 0.5], "headroom": ["winnable", "not winnable"]}
    pl.DataFrame(frame).write_csv(folder / "table3.csv")
    (folder / "statistics.json").write_text(json.dumps({"tests": {"p": 0.03125, "tasks": [12, 14]}}))
    for name in ("figure3", "figure4"):
        picture = Figure()
        picture.add_subplot().plot([0, 1], color=BLUE)
        save(picture, folder / name)
    (folder / "table3.rst").write_text("What was picked: by `each` strategy. Second sentence.")
    return folder


def write_cell(folder: Path, suite: dict[int, Any], seed: int) -> None:
    samples, evaluations, logprobs = [], [], []
    for task_id, task in suite.items():
        drawn = itertools.chain.from_iterable(
            itertools.repeat((text, *verdict[:4]), verdict[4]) for text, verdict in COMPLETIONS.items()
        )
        for i, (text, status, speedup, low, nll) in enumerate(drawn):
            if task_id == 14:
                text, status, speedup, low, nll = "return torch.triu(A @ B)", "correct", 0.97, 0.95, 1.0
            key = {"task_id": task_id, "seed": seed, "sample": i}
            digest = candidate_sha256(candidate_source(task.reference_source, text, "forward_body"))
            named = key | {"candidate_sha256": digest}
            samples.append(blank("samples", **named, completion=text, n_tokens=9, finish_reason="stop"))
            timing = {"speedup": speedup, "speedup_low": low, "speedup_high": 1.1 * speedup if low else None}
            timing |= {"kernel_ms": 1 / speedup, "baseline_ms": 1.0, "roofline_ms": 0.2} if speedup else {}
            error = "" if speedup else HANDLER
            known = {"hardware": "cpu: a processor", "sandbox": "landlock7+seccomp", "evaluator": "newer"}
            known |= {"measured_at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "status": status, "error": error}
            evaluations.append(blank("evaluations", **named, **timing, **known))
            logprobs.append(key | {"scorer": "base", "nll": nll, "nll_mean": nll / 9, "n_tokens": 9})
    cell = f"subset1/seed={seed}.parquet"
    artifacts.write(folder / "samples" / cell, "samples", samples, action="forward_body", subset="subset1")
    artifacts.write(folder / "evaluations" / cell, "evaluations", evaluations)
    artifacts.write(folder / "logprobs" / cell, "logprobs", logprobs)
    paths = [folder / kind / cell for kind in ("evaluations", "logprobs", "selections")]
    select(SelectSettings(), paths[0], paths[1], folder / "tasks.parquet", "subset1", paths[2])


def write_run(folder: Path, task: Any) -> None:
    """Two steps of adaptation to task 12: the reference three times, a faster body at step 1."""
    for step, texts in enumerate(
        (["return torch.diag(A) @ B"] * 2, ["return A[:, None] * B", "return torch.diag(A) @ B"])
    ):
        rollouts, verdicts = [], []
        for i, text in enumerate(texts):
            is_fast = "None" in text
            key = {"step": step, "task_id": 12}
            rollouts.append(blank("adapt_rollouts", **key, rollout=i, completion=text, token_ids=[1, 2, 3]))
            timing = {"speedup": 4.0 if is_fast else 1.0, "speedup_low": 3.0 if is_fast else 0.9, "status": "correct"}
            verdicts.append(blank("adapt_evaluations", **key, seed=42, sample=i, **timing))
        artifacts.write(folder / f"step={step}" / "rollouts.parquet", "adapt_rollouts", rollouts)
        artifacts.write(folder / f"step={step}" / "evaluations.parquet", "adapt_evaluations", verdicts)


def arguments(world: Path, output: Path, **changed: list[Path]) -> list[str]:
    lists = {kind: sorted((world / kind).rglob("*.parquet")) for kind in ("samples", "evaluations", "logprobs")}
    lists |= {kind: sorted((world / kind).rglob("*.parquet")) for kind in ("selections", "headroom")}
    lists["adaptation"] = sorted((world / "adapt").rglob("*.parquet"))
    lists |= {"tables": [world / "table3.csv", world / "statistics.json"], "captions": [world / "table3.rst"]}
    lists |= {"figures": [world / "figure3.svg", world / "figure4.svg"]} | changed
    flags = [f"--config={world / 'config.yaml'}", f"--tasks={world / 'tasks.parquet'}", f"--output={output}"]
    flags += [f"--rollouts={world / 'rollouts.parquet'}", "--aggregate.bootstrap=200"]
    return ["report_page", *flags, *(text for name, files in lists.items() for text in (f"--{name}", *map(str, files)))]


@pytest.fixture(scope="module")
def page(world: Path) -> Path:
    output = world / "report.html"
    assert main(arguments(world, output)) == 0
    return output


class Elements(HTMLParser):
    """All elements with their attributes, and the text of those named `kept`."""

    def __init__(self, text: str, kept: str) -> None:
        super().__init__()
        self.kept, self.is_inside = kept, False
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.is_inside = tag == self.kept
        if self.is_inside:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.is_inside = self.is_inside and tag != self.kept

    def handle_data(self, data: str) -> None:
        if self.is_inside:
            self.texts[-1] += data


def data_of(page: Path) -> dict[str, Any]:
    """What the page gives its explorer."""
    packed = Elements(page.read_text(), "script").texts[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


# --- what is on the page --------------------------------------------------------------------------------------------


def test_page_says_what_came_out_and_what_was_run(page: Path) -> None:
    text = page.read_text()
    assert (
        "Surprisal-guided and surprisal-guided-top3 lead: 0.50 of their picks are confidently faster" in text
    )  # task 12 of 12 and 14, under both seeds
    assert "On 1 of the 2 tasks there is nothing to be won" in text
    assert "Training reward was measured with the evaluator of its time (older)" in text
    for fact in (
        "smollm2-135m-instruct",
        "cpu: a processor",
        "landlock7+seccomp",
        "2026-01-02 03:04 UTC",
        "20 samples",
    ):
        assert fact in text


def test_page_needs_nothing_from_outside(page: Path) -> None:
    text = page.read_text()
    for tag, attributes in Elements(text, "script").found:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "action", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert all(target.startswith("data:") for target in re.findall(r"url\(['\"]?([^)'\"#]{2,40})", text))
    assert "@import" not in text


def test_only_the_pages_own_script_may_run(page: Path) -> None:
    elements = Elements(page.read_text(), "script")
    policy = next(a["content"] or "" for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert len(elements.texts) == 3  # the library and the data, which are no code, and the script
    digest = base64.b64encode(hashlib.sha256(elements.texts[2].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' blob:" in policy
    assert "default-src 'none'" in policy


def test_what_a_policy_wrote_is_text(page: Path) -> None:
    text, data = page.read_text(), data_of(page)
    assert "alert(1)" not in text
    assert HANDLER not in text
    assert "&lt;img src=x onerror" in text  # the name in table 3
    written = [code for code in data["candidates"] if "alert" in code]
    assert len(written) == 1
    assert "<script" not in written[0]
    assert "&lt;/script&gt;" in written[0]


def test_same_inputs_same_bytes(world: Path, page: Path, tmp_path: Path) -> None:
    assert main(arguments(world, tmp_path / "again.html")) == 0
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_page_of_samples_alone(world: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    nothing: dict[str, list[Path]] = {name: [] for name in ("tables", "figures", "captions", "headroom", "adaptation")}
    assert main(arguments(world, output, **nothing)) == 0
    assert "nothing to be won," not in output.read_text()
    assert {task["headroom"] for task in data_of(output)["tasks"].values()} == {"unknown"}


def test_missing_and_damaged_files_are_named(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(world, tmp_path / "report.html", logprobs=[])) == 2
    assert "--logprobs names no file" in capsys.readouterr().err
    (tmp_path / "table1.csv").write_text("")
    assert main(arguments(world, tmp_path / "report.html", tables=[tmp_path / "table1.csv"])) == 1
    assert "table1.csv is not a readable table" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


# --- the headline ---------------------------------------------------------------------------------------------------


def picks(**rates: list[float]) -> pl.DataFrame:
    """One seed; fast_1_confident of each task by strategy, fast_1 the same unless `…_fast` says otherwise."""
    rows = []
    for strategy, values in rates.items():
        for task, value in enumerate(values):
            row = {"subset": "s", "task_id": task, "seed": 1, "strategy": strategy.replace("_", "-")}
            row |= {"fast_1": max(value, 0.5), "fast_1_confident": value, "speedup": 1.0, "evaluations_used": 1.0}
            rows.append(row)
    return pl.DataFrame(rows)


def test_no_confident_success_is_said_first() -> None:
    found = headlines(picks(best_correct=[0.0] * 5, surprisal_guided=[0.0] * 5), set(), SETTINGS)[0]
    assert found.lead == "No strategy picked code that is confidently faster than the reference, on any task."
    assert "there was nothing to select" in found.sentences[0]
    assert found.leader is None


def test_oracle_leads_nothing() -> None:
    found = headlines(picks(best_correct=[1.0] * 5, random_correct=[1.0, 0, 0, 0, 0]), set(), SETTINGS)[0]
    assert found.leader == "random-correct"
    assert found.lead == "Random-correct leads: 0.20 of its picks are confidently faster than the reference."
    assert found.sentences[0].startswith("fast_1_confident is 0.20 (95 % interval ")


def test_equal_strategies_are_called_equal() -> None:
    found = headlines(picks(surprisal_guided=[1.0, 0.0], random_correct=[0.0, 1.0]), set(), SETTINGS)[0]
    assert found.lead == "All strategies are equal: 0.50 of their picks are confidently faster than the reference."
    assert len(found.sentences) == 1  # the rates; nothing differs that could be tested


def test_difference_is_significant_over_enough_tasks_only() -> None:
    over_nine = picks(surprisal_guided=[1.0] * 9, random_correct=[0.0] * 9, confidence_guided=[1.0] * 8 + [0.0])
    found = headlines(over_nine, set(), SETTINGS)[0]
    assert "That is significantly more than random-correct reaches." in found.sentences
    assert "The difference from confidence-guided is not significant." in found.sentences
    clear = headlines(over_nine.filter(pl.col("strategy") != "confidence-guided"), set(), SETTINGS)[0]
    assert clear.lead.endswith("significantly more than with any other strategy.")
    over_six = picks(surprisal_guided=[1.0] * 6, random_correct=[0.0] * 6, confidence_guided=[0.0] * 6)
    found = headlines(over_six, set(), SETTINGS)[0]
    assert "the least p-value of 3 paired tests, corrected for their number, is 0.094." in found.sentences[-1]
    found = headlines(picks(surprisal_guided=[1.0] * 5, random_correct=[0.0] * 5), {0, 1, 99}, SETTINGS)[0]
    assert "The difference from random-correct is not significant." in found.sentences
    assert "Over 5 tasks no difference could be: the least p-value of a paired test is 0.062." in found.sentences
    assert found.sentences[-1].startswith("On 2 of the 5 tasks there is nothing to be won")


def test_p_value_is_that_of_all_sign_flips() -> None:
    differences = np.array([0.5, 0.25, -0.125, 1.0, 0.0, 0.75])
    flipped = [abs(np.mean(differences * signs)) for signs in itertools.product((1, -1), repeat=6)]
    expected = np.mean(np.array(flipped) >= abs(differences.mean()) - 1e-12)
    assert paired_p_value(differences, np.zeros(6)) == pytest.approx(expected)
    assert paired_p_value(np.ones(4), np.ones(4)) == 1
    assert paired_p_value(np.ones(1), np.zeros(1)) == 1  # either sign is as likely
    assert paired_p_value(np.ones(5), np.zeros(5)) == pytest.approx(2 / 2**5)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


# --- what was run ---------------------------------------------------------------------------------------------------


def evaluations(**columns: list[str]) -> pl.DataFrame:
    values = {"evaluator": ["e"], "hardware": ["cpu"], "sandbox": ["landlock7+seccomp"]} | columns
    return pl.DataFrame(values)


CLEAN = [("rollouts", {"evaluator": "e", "git_revision": "abc"}), ("samples", {"git_revision": "abc"})]


def test_nothing_to_say_of_a_clean_run() -> None:
    for adaptation in (None, pl.DataFrame({"evaluator": ["e"]}), pl.DataFrame()):
        assert account.cautions(evaluations(), CLEAN, adaptation) == []


@pytest.mark.parametrize(
    ("frame", "notes", "adaptation", "said"),
    [
        (evaluations(evaluator=["f"]), CLEAN, None, r"evaluator of its time \(e\).*another \(f\)"),
        (evaluations(), CLEAN, pl.DataFrame({"evaluator": ["e d"]}), r"Adaptation.*\(d\)"),
        (evaluations(sandbox=[""]), CLEAN, None, "1 of 1 evaluations ran without Landlock or seccomp"),
        (evaluations(), [("samples", {"git_revision": "abc-dirty"})], None, "not committed"),
        (evaluations(), [*CLEAN, ("samples", {"git_revision": "x"})], None, r"different revisions .*\(abc, x\)"),
    ],
)
def test_what_weakens_a_run_is_said(frame: pl.DataFrame, notes: Any, adaptation: Any, said: str) -> None:
    sentences = account.cautions(frame, notes, adaptation)
    assert len(sentences) == 1
    assert re.search(said, sentences[0])


def test_sentence_on_the_audit() -> None:
    audit = pl.DataFrame({"protocol": ["paired", "paper"], "name": ["all", "all"], "repeats": [640, 640]}).with_columns(
        fast_1=pl.Series([0.4, 0.5]),
        fast_1_confident=pl.Series([0.01, None]),
        fast_1_confident_low=pl.Series([0.002, None]),
        fast_1_confident_high=pl.Series([0.03, None]),
    )
    said = account.audit_sentence(audit) or ""
    assert (
        "under the paired protocol in 0.4 of 640 repeats by point estimate, confidently in 0.01 (interval 0.002 to 0.03"
        in said
    )
    assert said.endswith("under the paper protocol in 0.5 of 640 repeats by point estimate.")


def _written(table: pl.DataFrame, path: Path) -> Path:
    write_table(table, path)
    return path


def test_sentence_on_the_same_budget(tmp_path: Path) -> None:
    columns = ["subset", "reported_on", "run", "step", "rollouts", "fast_1", "fast_1_delta_low", "fast_1_delta_high"]
    rows = [
        ("one", "samples", None, None, 320, 0.4, None, None),
        ("one", "in_batch", "a b", 1, 320, 0.9, 0.1, 0.9),  # its fresh rollouts count instead
        ("one", "fresh", "a b", 0, 160, 0.1, -0.5, -0.1),  # nothing is learned yet
        ("one", "fresh", "a b", 1, 320, 0.3, -0.2, 0.1),
        ("one", "in_batch", "c", 1, 320, 0.6, 0.05, 0.3),
        ("two", "samples", None, None, 64, 0.5, None, None),  # without runs
    ]
    table = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        best_of_k_fast_1=pl.lit(0.8), best_of_k_fast_1_confident=pl.lit(0.0)
    )
    (said,) = account.budget_sentences(table)
    assert said.startswith("one, at 320 rollouts: the fastest of all samples beats the reference on 80 % of the tasks")
    assert "confidently on 0 %), a single sample does so at a rate of 40 %." in said
    assert "(2 configurations)" in said
    assert said.endswith(
        "is at 30 to 60 %. The interval of the difference lies above 0 for 1 of them, below 0 for none; nothing corrects for their number."
    )
    assert account.budget_sentences(table.filter(pl.col("run").is_null())) == []
    read_again = read_table(_written(table.filter(pl.col("run").is_null()), tmp_path / "table10.csv"))
    assert account.budget_sentences(read_again) == []  # a run without adaptation
    assert account.budget_sentences(None) == []


def test_fact_on_adaptation() -> None:
    runs = pl.DataFrame({"run": ["a", "a", "b"], "objective": ["grpo", "grpo", "trloo"], "step": [0, 1, 0]})
    (fact,) = account.adaptation_fact(runs)
    assert fact.text == "2 runs: grpo (1, up to step 1), trloo (1, up to step 0)"
    assert account.adaptation_fact(runs.clear()) == account.adaptation_fact(None) == []


# --- tables, figures, rows ------------------------------------------------------------------------------------------


def test_interval_is_one_column_and_lost_tasks_are_marked(world: Path) -> None:
    frame = exhibits.read_table(world / "table3.csv")
    found = exhibits.table("table3", frame, exhibits.caption("", "table3"), set())
    assert found.columns == ["task_id", "name", "fast_1", "headroom"]
    assert (found.rows[0][2].text, found.rows[0][2].interval) == ("0.500", "0.250 to 0.750")
    assert found.lost == [False, True]
    without = exhibits.table("table3", frame.drop("headroom"), exhibits.caption("", "table3"), {12})
    assert without.lost == [True, False]


def test_rows_of_single_tasks_are_left_out_of_a_long_table() -> None:
    rows = [{"set": "eval", "task_id": None, "m": 1}] + [{"set": "eval", "task_id": n, "m": 1} for n in range(1000)]
    found = exhibits.table("budget_curve", pl.DataFrame(rows), exhibits.caption("", "budget_curve"), set())
    assert (found.columns, len(found.rows), found.left_out) == (["set", "m"], 1, 1000)
    short = exhibits.table("budget_curve", pl.DataFrame(rows[:1000]), exhibits.caption("", "budget_curve"), set())
    assert (short.columns, len(short.rows), short.left_out) == (["set", "task_id", "m"], 1000, 0)


def test_json_is_a_table(world: Path, tmp_path: Path) -> None:
    assert exhibits.read_table(world / "statistics.json").rows() == [("tests.p", "0.0312"), ("tests.tasks", "12, 14")]
    (tmp_path / "rows.json").write_text('[{"a": 1}, {"a": 2.5, "b": "x"}]')
    assert exhibits.read_table(tmp_path / "rows.json").rows() == [(1.0, None), (2.5, "x")]


def test_figures_share_no_id_and_follow_the_pages_colours(world: Path) -> None:
    found = [
        exhibits.figure(name, (world / "figure3.svg").read_text(), exhibits.caption("", name)) for name in ("a", "b")
    ]
    ids = [set(re.findall(r'id="([^"]+)"', figure.svg)) for figure in found]
    assert ids[0]
    assert not ids[0] & ids[1]
    for figure, own in zip(found, ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', figure.svg)) <= own
        assert "var(--blue)" in figure.svg
        assert BLUE.lower() not in figure.svg
    with pytest.raises(UserError, match=r"figure3\.svg is no SVG"):
        exhibits.figure("figure3", "<svg", exhibits.caption("", "figure3"))


def test_caption_is_rendered_and_its_first_clause_is_the_title() -> None:
    found = exhibits.caption("Best-of-N: the *unbiased* probability.", "table2")
    assert found.title == "Best-of-N"
    assert "<em>unbiased</em>" in found.html
    assert exhibits.caption("", "figure_null_audit").title == "Figure null audit"
    assert "<script" not in exhibits.caption(".. raw:: html\n\n   <script>alert(1)</script>", "x").html


@given(st.floats(-1e300, 1e300))
def test_number_is_right_to_three_digits(value: float) -> None:
    assert float(exhibits.number(value)) == pytest.approx(value, rel=5.1e-3, abs=1e-300)


def test_rows_are_distinct_completions_with_their_count_and_pickers(page: Path) -> None:
    rows = [row for row in data_of(page)["rows"] if row["run"] is None]
    assert [(row["task_id"], row["seed"], row["count"]) for row in rows] == [
        *((12, 42, n) for n in (3, 1, 1)),
        *((12, 43, n) for n in (3, 1, 1)),
        (14, 42, 5),
        (14, 43, 5),
    ]
    assert sum(row["count"] for row in rows) == 20
    reference, fast, failed = rows[:3]
    assert reference["picked"] == ["confidence-guided"]
    assert fast["picked"] == ["best-correct", "surprisal-guided", "surprisal-guided-top3"]
    assert (fast["ceiling"], fast["is_confident"]) == (5.0, True)
    assert (failed["picked"], failed["speedup"], failed["error"]) == ([], None, HANDLER)


def test_completions_of_adaptation_are_rows_with_the_step_that_had_them_first(page: Path) -> None:
    rows = [row for row in data_of(page)["rows"] if row["run"] == "grpo-42"]
    assert [(row["completion"], row["step"], row["sample"], row["count"]) for row in rows] == [
        ("return torch.diag(A) @ B", 0, 0, 3),
        ("return A[:, None] * B", 1, 0, 1),
    ]
    assert [(row["subset"], row["is_confident"], row["nll"], row["n_tokens"]) for row in rows] == [
        ("subset1", False, None, 3),
        ("subset1", True, None, 3),
    ]


def test_long_texts_are_cut() -> None:
    assert len(explorer.code("#" * 10**6)) < 50_000


def test_changed_style_sheet_changes_the_stages_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "expert_tail"
    shutil.copytree(code_digest.ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_digest, "ROOT", root)
    before = {stage: code_digest.code_digest(stage) for stage in ("report_page", "select")}
    with open(root / "report_page" / "page" / "page.css", "a") as file:
        file.write("\n")
    assert code_digest.code_digest("report_page") != before["report_page"]
    assert code_digest.code_digest("select") == before["select"]


# --- in a browser ---------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed (Debian: chromium)")


class Visit:
    """A page that was opened, and all that it did which it should not have done."""

    def __init__(self, browser: Any, page: Path, **context: Any) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.goto(page.as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=20_000)

    def has_rows(self, count: int) -> None:
        """Wait until the explorer has so many rows."""
        pytest.importorskip("playwright.sync_api").expect(self.page.locator("#rows tbody tr")).to_have_count(count)

    def begins_with(self, table: str, text: str) -> None:
        """Wait until the first row of a table contains `text`."""
        self.page.locator(f"{table} tbody tr:first-child", has_text=text).wait_for(timeout=5000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, page: Path) -> Iterator[Visit]:
    visit = Visit(browser, page)
    yield visit
    visit.context.close()
    assert visit.complaints == []
    assert [url for url in visit.requests if not url.startswith(("file:", "blob:", "data:"))] == []


@in_browser
def test_search_and_filters_narrow_the_rows(visit: Visit) -> None:
    visit.has_rows(10)  # eight of samples, two of adaptation
    visit.page.fill("#samples input[type=search]", "grpo-42")
    visit.has_rows(2)
    visit.page.fill("#samples input[type=search]", "unsqueeze")
    visit.has_rows(2)
    visit.page.fill("#samples input[type=search]", "")
    visit.page.click("button:has-text('Filter')")
    for value in ("runtime_error", "43"):
        visit.page.click(f".dtsp-searchPane tr:has-text('{value}')")
    visit.page.keyboard.press("Escape")
    visit.has_rows(1)
    visit.begins_with("#rows", "runtime_error")
    visit.page.click("button:has-text('Filter')")
    visit.page.click(".dtsp-clearAll")
    visit.page.click(".dtsp-searchPane tr:has-text('confidence-guided')")
    visit.has_rows(4)  # one a task and seed
    visit.page.click(".dtsp-searchPane tr:has-text('upper triangular')")
    visit.has_rows(2)


@in_browser
def test_chosen_row_shows_its_code_beside_the_reference(visit: Visit) -> None:
    visit.page.locator("#rows tbody tr", has_text="4").nth(1).click()
    detail = visit.page.locator("#detail")
    assert "return A.unsqueeze(1) * B" in detail.locator("[data-code=candidate]").inner_text()
    assert "torch.diag(A) @ B" in detail.locator("[data-code=reference]").inner_text()
    assert detail.locator("[data-code=candidate] .k").count() > 0  # keywords are highlighted
    text = detail.inner_text()
    for known in ("correct, confidently faster", "Speedup 4 [3.6, 4.4]", "surprisal-guided-top3"):
        assert known in text
    assert detail.locator("dt:text-is('surprisal, nats') + dd").inner_text() == "9"

    # The keyboard is enough.
    visit.page.locator("#rows tbody button").nth(7).focus()
    visit.page.keyboard.press("Enter")
    assert "return torch.triu(A @ B)" in visit.page.locator("#detail [data-code=candidate]").inner_text()
    # What a policy wrote is text, whatever it is.
    visit.page.locator("#rows tbody tr", has_text="runtime_error").first.click()
    assert ATTACK in visit.page.locator("#detail [data-field=completion]").inner_text()
    assert HANDLER in visit.page.locator("#detail [data-field=error]").inner_text()
    assert visit.page.locator("#detail img").count() == 0


@in_browser
def test_rows_and_tables_sort(visit: Visit) -> None:
    header = visit.page.locator("#rows thead th", has_text="surprisal")
    header.click()
    visit.begins_with("#rows", "20")
    header.click()
    visit.begins_with("#rows", "0.5")  # not the rollouts of adaptation, which have none
    visit.page.click("#table3 summary")
    visit.page.locator("#table3 thead th", has_text="fast_1").click()
    visit.begins_with("#table3", "14 ⊘")
    visit.begins_with("#table3", HANDLER)


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_has_no_sideways_scroll_and_follows_the_scheme(browser: Any, page: Path, scheme: str) -> None:
    visit = Visit(browser, page, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", background))) / 3 > 128 or scheme == "dark"
    assert sum(map(int, re.findall(r"\d+", background))) / 3 < 128 or scheme == "light"
    assert visit.page.evaluate("scrollY") == 0
    visit.context.close()
    assert visit.complaints == []
