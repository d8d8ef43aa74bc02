"""The stages as subcommands: what each does, and the settings and files that it is given. Data alone: no stage is imported.

To add one, add an entry; `cli` makes its flags and calls it.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """A subcommand that calls `expert_tail.{name}.stage.run` with these arguments, by name.

    `sections` maps a parameter to (config section, "module:class" of its settings); `paths` are required files or
    folders, `optional` ones may be left out, `lists` are of one or more, `optional_lists` of any number; `values` are what
    is no file, `options` texts that may be left out.
    """

    name: str
    help: str
    sections: dict[str, tuple[str, str]] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    optional_lists: dict[str, str] = field(default_factory=dict)
    values: dict[str, tuple[type, str]] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


_POLICY = {
    "prompt": ("prompt", "expert_tail.policy.settings:PromptSettings"),
    "runtime": ("policy", "expert_tail.policy.settings:RuntimeSettings"),
}
_EVALUATOR = {"evaluator": ("evaluator", "expert_tail.evaluator.settings:EvaluatorSettings")}
_TASKS = {"tasks": "the tasks artifact"}
_READS_POLICY = {**_TASKS, "policy": "the policy's folder"}
_AGGREGATE = {"settings": ("aggregate", "expert_tail.aggregate.settings:AggregateSettings")}
_COMPARISON = {"comparison": ("comparison", "expert_tail.comparison.settings:ComparisonSettings")}
_SELECT = {"select": ("select", "expert_tail.select.settings:SelectSettings")}
_SCORED = {"evaluations": "evaluations to read, …/SUBSET/seed=N.parquet", "logprobs": "their log-probs"}
_CELLS = {
    "samples": "samples to read, …/SUBSET/seed=N.parquet",
    "evaluations": "their evaluations",
    "logprobs": "their log-probs",
    "selections": "their selections",
}
_MARKS = {"headroom": "headroom of the subsets, …/SUBSET.parquet, to mark tasks by"}
_ADAPTER = {"adapter": "the checkpoint's folder; left out: the policy itself"}

STAGES = (
    Stage(
        "fetch_policy",
        "download a policy and save it as a Hugging Face folder of safetensors; writes provenance.json last",
        sections={"settings": ("policy", "expert_tail.policy.settings:FetchSettings")},
        paths={"output": "provenance.json in the folder to make"},
    ),
    Stage(
        "rlvr_train",
        "train a LoRA adapter on the training tasks; resumes after its last finished step",
        sections={
            "rlvr": ("rlvr", "expert_tail.rlvr_train.settings:RlvrSettings"),
            "lora": ("lora", "expert_tail.policy.settings:LoraSettings"),
            **_POLICY,
            **_EVALUATOR,
        },
        paths={
            **_READS_POLICY,
            "state": "folder for finished steps",
            "checkpoints": "folder for adapters step=N",
            "output": "rollouts to write (Parquet)",
        },
    ),
    Stage(
        "sample_k64",
        "draw K samples of every task of a subset",
        sections={"sampling": ("sampling", "expert_tail.sample_k64.settings:SampleSettings"), **_POLICY},
        paths={**_READS_POLICY, "output": "samples to write (Parquet)"},
        optional=_ADAPTER,
        values={"subset": (str, "subset of the tasks"), "seed": (int, "of all random draws")},
    ),
    Stage(
        "compile_and_time",
        "evaluate every sample: verdict and paired timing, each distinct candidate once",
        sections=_EVALUATOR,
        paths={**_TASKS, "samples": "samples to read", "output": "evaluations to write (Parquet)"},
        options={"shard": "like 2-of-3: only this share of the distinct candidates; left out: all"},
    ),
    Stage(
        "gather_evaluations",
        "put the shards of an evaluation together",
        paths={"samples": "samples that were evaluated", "output": "evaluations to write (Parquet)"},
        lists={"shards": "evaluations of all shards"},
    ),
    Stage(
        "null_audit",
        "every evaluation task's reference against itself, many times, under each protocol: how often is it called faster?",
        sections={
            "settings": ("null_audit", "expert_tail.null_audit.settings:NullAuditSettings"),
            **_EVALUATOR,
        },
        paths={
            **_TASKS,
            "measurements": "folder for PROTOCOL.parquet, one row a repeat",
            "output": "folder for null_audit.csv and figure_null_audit",
        },
    ),
    Stage(
        "time_experts",
        "evaluate the project's own expert solutions of a split, and judge which of its tasks are winnable",
        sections={"settings": ("headroom", "expert_tail.time_experts.settings:HeadroomSettings"), **_EVALUATOR},
        paths={
            **_TASKS,
            "experts": "folder of experts, ACTION/TASK_ID.py",
            "output": "headroom of the split to write (Parquet)",
        },
        values={"split": (str, "subset of the tasks, or train")},
    ),
    Stage(
        "headroom",
        "table and figure of what there is to be won on each task",
        paths={"output": "folder for headroom.csv and figure_headroom"},
        lists={"measured": "headroom to read, …/SPLIT.parquet"},
    ),
    Stage(
        "score_logprobs",
        "surprisal of every sample at temperature 1 under a checkpoint",
        sections=_POLICY,
        paths={**_READS_POLICY, "samples": "samples to read", "output": "logprobs to write (Parquet)"},
        optional=_ADAPTER,
    ),
    Stage(
        "select",
        "what each strategy picks among the samples of each task",
        sections={"settings": ("select", "expert_tail.select.settings:SelectSettings")},
        paths={
            **_TASKS,
            "evaluations": "evaluations to read",
            "logprobs": "logprobs to read",
            "output": "selections to write",
        },
        values={"subset": (str, "subset of the tasks")},
    ),
    Stage(
        "adapt",
        "adapt a checkpoint to the tasks it is judged by; resumes after its last finished step",
        sections={
            "run": ("run", "expert_tail.adapt.settings:Run"),
            "draws": ("sampling", "expert_tail.policy.settings:DrawSettings"),
            **_POLICY,
            **_EVALUATOR,
        },
        paths={
            **_READS_POLICY,
            "adapter": "folder of the checkpoint to start from",
            "state": "folder for finished steps",
            "output": "folder for the steps, …/NAME of the run",
        },
    ),
    Stage(
        "best_of_adaptation",
        "the adapter of the step whose rollouts have the highest fast_1",
        paths={"output": "folder of the adapter to write"},
        lists={"evaluations": "evaluations of all steps of a run, each in its step's folder"},
    ),
    Stage(
        "nll_probe",
        "surprisal of fixed samples under a checkpoint of an adaptation run",
        sections=_POLICY,
        paths={
            **_READS_POLICY,
            "adapter": "the checkpoint's folder, …/RUN/step=N",
            "samples": "samples to read",
            "output": "probes to write (Parquet)",
        },
    ),
    Stage(
        "adaptation_tables",
        "tables of adaptation runs and of their probes",
        sections={
            "settings": ("aggregate", "expert_tail.aggregate.settings:AggregateSettings"),
            "adaptation": ("adaptation", "expert_tail.adapt.settings:AdaptationSettings"),
        },
        paths={"runs": "folder that holds the runs", "output": "folder for the tables"},
        optional_lists={"probes": "probes, …/RUN/step=N.parquet", "evaluations": "evaluations of the probed samples"},
        values={"budget": (int, "rollouts of a task that Best-of-N draws")},
    ),
    Stage(
        "aggregate",
        "tables and figures",
        sections={"settings": ("aggregate", "expert_tail.aggregate.settings:AggregateSettings")},
        paths={**_TASKS, "rollouts": "training rollouts to read", "output": "folder for tables and figures"},
        lists=_CELLS,
        optional_lists=_MARKS,
    ),
    Stage(
        "budget_curve",
        "what m evaluations buy, when samples are ranked before any is evaluated",
        sections={**_AGGREGATE, **_COMPARISON, **_SELECT},
        paths={"output": "folder for budget_curve.csv and figure_budget_curve"},
        lists=_SCORED,
    ),
    Stage(
        "selection_sensitivity",
        "selection under other surprisals, scorers, sets of tasks, and without duplicates",
        sections={**_AGGREGATE, **_COMPARISON},
        paths={"output": "folder for selection_sensitivity.csv and its figure"},
        lists=_SCORED,
        optional_lists={
            "base": "their log-probs under the untrained policy",
            "probes": "log-probs of some of them under adapted checkpoints, …/RUN/step=N.parquet",
        },
    ),
    Stage(
        "pareto",
        "success and speedup against cost: sampling, selection and adaptation",
        sections={
            **_AGGREGATE,
            **_COMPARISON,
            **_SELECT,
            "adaptation": ("adaptation", "expert_tail.adapt.settings:AdaptationSettings"),
        },
        paths={"runs": "folder that holds the adaptation runs", "output": "folder for pareto.csv and figure_pareto"},
        lists={"samples": "samples to read, …/SUBSET/seed=N.parquet", **_SCORED},
    ),
    Stage(
        "report_page",
        "one HTML file that says what was run and what came out, with figures, tables and every sample",
        sections={"settings": ("aggregate", "expert_tail.aggregate.settings:AggregateSettings")},
        paths={
            "config": "the run's configuration (YAML), as in results/config.yaml",
            **_TASKS,
            "rollouts": "training rollouts, for how they were made",
            "output": "page to write (HTML)",
        },
        lists={**_CELLS, "samples": "samples to read, …/SUBSET/seed=N.parquet; the first subset is the headline's"},
        optional_lists={
            **_MARKS,
            "adaptation": "rollouts and evaluations of adaptation runs, …/RUN/step=N/NAME.parquet, for the explorer",
            "tables": "tables to show, in this order (CSV, or JSON)",
            "figures": "figures to show, in this order (SVG)",
            "captions": "their captions, NAME.rst (reStructuredText); one without a caption has its name",
        },
    ),
    Stage(
        "comparison",
        "sampling, selection and adaptation side by side: the other tables and figures, and statistics.json",
        sections={
            "settings": ("aggregate", "expert_tail.aggregate.settings:AggregateSettings"),
            "comparison": ("comparison", "expert_tail.comparison.settings:ComparisonSettings"),
            "adaptation": ("adaptation", "expert_tail.adapt.settings:AdaptationSettings"),
            "prompt": _POLICY["prompt"],
        },
        paths={
            **_TASKS,
            "rollouts": "training rollouts to read",
            "runs": "folder that holds the adaptation runs",
            "output": "folder for tables and figures",
        },
        optional={"policy": "the policy's folder, to count the tokens of prompts; left out: they are not counted"},
        lists=_CELLS,
        optional_lists={
            "probes": "probes, …/RUN/step=N.parquet",
            "probed": "evaluations of the probed samples",
            **_MARKS,
        },
    ),
    Stage(
        "paper_vs_run",
        "the paper's published numbers beside those of this run",
        paths={"results": "folder with the tables of this run", "output": "table to write (CSV)"},
    ),
)
