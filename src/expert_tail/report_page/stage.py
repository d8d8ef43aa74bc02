"""Read the artifacts and results of a run, write the page."""

import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import itables
import jinja2
import polars as pl
import yaml

from expert_tail import artifacts
from expert_tail.aggregate.cells import load_cells, load_names
from expert_tail.aggregate.loading import cells_of
from expert_tail.aggregate.settings import AggregateSettings
from expert_tail.aggregate.task_sets import pooled, task_sets
from expert_tail.artifacts import ArtifactError, replacing
from expert_tail.errors import UserError
from expert_tail.progress import log
from expert_tail.report_page import account, exhibits, explorer
from expert_tail.report_page.account import Notes
from expert_tail.report_page.headline import headlines
from expert_tail.select.stage import AGAIN, KEYS, load, refuse
from expert_tail.time_experts.verdict import NOT_WINNABLE

_PAGE = Path(__file__).parent / "page"
_DATATABLES = Path(itables.__file__).parent / "html"  # the bundle that itables ships, for use offline
_OF_SAMPLES = ["completion", "finish_reason"]
_OF_EVALUATIONS = ["reason", "error", "trials", "hardware", "sandbox", "evaluator", "measured_at"]
_ROLLOUTS = {"run": pl.String, "step": pl.Int32, "subset": pl.String, "task_id": pl.Int32, "seed": pl.Int64}
_ROLLOUTS |= {"sample": pl.Int32, "completion": pl.String, "action": pl.String, "status": pl.String}
_ROLLOUTS |= {"reason": pl.String, "error": pl.String, "n_tokens": pl.Int32, "trials": pl.Int32}
_ROLLOUTS |= dict.fromkeys(
    ["speedup", "speedup_low", "speedup_high", "kernel_ms", "baseline_ms", "roofline_ms"], pl.Float64
)
_ROLLOUTS |= {"nll": pl.Float64, "nll_mean": pl.Float64, "finish_reason": pl.String}


def run(
    settings: AggregateSettings,
    config: Path,
    tasks: Path,
    rollouts: Path,
    samples: list[Path],
    evaluations: list[Path],
    logprobs: list[Path],
    selections: list[Path],
    headroom: list[Path],
    adaptation: list[Path],
    tables: list[Path],
    figures: list[Path],
    captions: list[Path],
    output: Path,
) -> None:
    """Write the page to `output`, whole or not at all.

    `config` is the run's whole configuration (YAML). The four lists of artifacts have one file per subset and seed,
    …/SUBSET/seed=N.parquet; the first subset is the one that the page begins with. `headroom` marks tasks, and may be
    empty, like `adaptation`: rollouts and evaluations of the steps of runs, …/RUN/step=N/NAME.parquet. `tables` (CSV, JSON)
    and `figures` (SVG) are shown in their order, with the caption of the same name (reStructuredText), if there is one.
    Raises `ArtifactError` or `UserError` where a file is missing, damaged or does not fit.
    """
    configuration = _configuration(config)
    drawn, picks, notes = _load_cells(samples, evaluations, logprobs, selections)
    notes.append(("rollouts", artifacts.notes(rollouts)))
    suite = load(tasks, "tasks", ["task_id", "split", "reference_source"]).unique("task_id", keep="first")
    suite = load_names(tasks, headroom).join(suite, on="task_id", how="left", maintain_order="left")
    refuse(drawn.join(suite, on="task_id", how="anti"), ["task_id"], f"{tasks} lacks", f"; {AGAIN}")
    adapted = _load_adaptation(adaptation, suite, configuration["prompt"]["action"])
    refuse(adapted.join(suite, on="task_id", how="anti"), ["task_id"], f"{tasks} lacks", f"; {AGAIN}")
    unwinnable = set(suite.filter(pl.col("headroom") == NOT_WINNABLE)["task_id"])

    sets = task_sets(
        picks.select("subset", "seed").unique(maintain_order=True).rows(), configuration["comparison"]["groups"]
    )
    of_sets = pl.concat([pooled(picks, name, sets) for name in sets])
    of_name = {path.stem: exhibits.caption(_text(path), path.stem) for path in captions}
    frames = {path.stem: exhibits.read_table(path) for path in tables}

    def caption(name: str) -> exhibits.Caption:
        return of_name.get(name) or exhibits.caption("", name)

    page = {
        "headlines": headlines(of_sets, unwinnable, settings),
        "further": [
            *account.budget_sentences(frames.get("table10")),
            *filter(None, [account.audit_sentence(frames.get("null_audit"))]),
        ],
        "summary": account.summary(configuration, drawn),
        "facts": account.facts(configuration, drawn, notes) + account.adaptation_fact(frames.get("adaptation")),
        "cautions": account.cautions(drawn, notes, frames.get("adaptation")),
        "tables": [exhibits.table(name, frame, caption(name), unwinnable) for name, frame in frames.items()],
        "figures": [exhibits.figure(path.stem, _text(path), caption(path.stem)) for path in figures],
        "n_samples": drawn.height,
        "n_rollouts": adapted.height,
        "configuration": config.read_text(),
    }
    with replacing(output) as temporary:
        temporary.write_text(render(page, explorer.content(drawn, picks, adapted, suite)), encoding="utf-8")
    log(
        f"report_page: {len(tables)} tables, {len(figures)} figures and {drawn.height} samples -> {output} "
        f"({output.stat().st_size / 1e6:.1f} MB)"
    )


def render(page: dict[str, Any], samples: dict[str, Any]) -> str:
    """The page as HTML. Its policy of content lets no script run but the page's own, and nothing be fetched."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = exhibits.number
    script = _text(_PAGE / "page.js")
    return environment.get_template("page.html.j2").render(
        **page,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        styles=[_text(_DATATABLES / "dt_bundle.css"), explorer.style(".code"), _text(_PAGE / "page.css")],
        datatables=_packed(_text(_DATATABLES / "dt_bundle.js")),
        samples=_packed(json.dumps(samples, separators=(",", ":"))),
    )


def _packed(text: str) -> str:
    """gzip, then base64: small, and nothing in it can end the element that it stands in."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _configuration(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML ({error}); remove it and run again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no configuration; remove it and run again")
    return found


def _load_cells(
    samples: list[Path], evaluations: list[Path], logprobs: list[Path], selections: list[Path]
) -> tuple[pl.DataFrame, pl.DataFrame, Notes]:
    """All samples with verdict and surprisal, all selections, and the metadata of the files; subsets in the order given."""
    drawn, picks = load_cells(
        *(samples, evaluations, logprobs, selections), of_samples=_OF_SAMPLES, of_evaluations=_OF_EVALUATIONS
    )
    files = {"samples": samples, "evaluations": evaluations, "logprobs": logprobs, "selections": selections}
    notes = [(kind, artifacts.notes(file)) for kind, of_kind in files.items() for file in of_kind]
    cells = cells_of(samples)
    actions = {path: artifacts.notes(path).get("action") for path in samples}
    action = actions[samples[0]]
    for path, other in actions.items():
        if other is None:
            raise ArtifactError(f"{path} does not say which action its completions are; {AGAIN}")
        if other != action:
            raise ArtifactError(f"{path} has the action {other}, {samples[0]} has {action}; {AGAIN}")
    drawn = drawn.with_columns(action=pl.lit(action))
    order = {subset: place for place, subset in enumerate(dict.fromkeys(subset for subset, _ in cells))}
    if list(order) != sorted(order):  # else millions of rows would be copied for nothing
        place = pl.col("subset").replace_strict(order)
        drawn, picks = drawn.sort(place, maintain_order=True), picks.sort(place, maintain_order=True)
    return drawn, picks, notes


def _load_adaptation(paths: list[Path], suite: pl.DataFrame, action: str) -> pl.DataFrame:
    """The rollouts of adaptation runs with their verdicts, as `explorer` takes them."""
    frames = [pl.DataFrame(schema=_ROLLOUTS)]
    for path in sorted(path for path in paths if path.name == "rollouts.parquet"):
        verdicts = path.with_name("evaluations.parquet")
        if verdicts not in paths:
            raise UserError(f"{path} was given without {verdicts}; give both")
        drawn = load(path, "adapt_rollouts", ["step", "task_id", "rollout", "completion", "token_ids"])
        drawn = drawn.rename({"rollout": "sample"}).with_columns(n_tokens=pl.col("token_ids").list.len().cast(pl.Int32))
        found = load(verdicts, "adapt_evaluations", [*KEYS, *artifacts.EVALUATION_COLUMNS])
        joined = drawn.join(found, on=["task_id", "sample"], how="left").join(suite, on="task_id", how="left")
        refuse(joined.filter(pl.col("status").is_null()), ["task_id", "sample"], f"{verdicts} lacks", f"; {AGAIN}")
        known = {"run": path.parents[1].name, "action": action, "nll": None, "nll_mean": None, "finish_reason": None}
        joined = joined.rename({"split": "subset"}).with_columns(
            **{name: pl.lit(value) for name, value in known.items()}
        )
        frames.append(joined.select(pl.col(name).cast(kind) for name, kind in _ROLLOUTS.items()))
    return pl.concat(frames)
