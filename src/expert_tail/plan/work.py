"""What each job has to do, counted from the configuration: exact, except for what the policy will write."""

from dataclasses import dataclass

from expert_tail.adapt.settings import Run
from expert_tail.config import Config
from expert_tail.plan.dry_run import Job
from expert_tail.tasks import TRAIN


@dataclass(frozen=True)
class Work:
    """Counts of one job. `batches` are calls of the sampler, each decoding up to `longest` tokens; prompts are counted each
    time they are drawn from, scored (in `passes`) or updated on (in `updates`)."""

    loads_policy: bool = False
    batches: int = 0
    longest: int = 0
    samples: int = 0
    drawn_prompts: int = 0
    passes: int = 0
    scored: int = 0
    scored_prompts: int = 0
    updates: int = 0
    updated: int = 0
    updated_prompts: int = 0
    evaluated: int = 0  # candidates, of which equal ones are measured once
    repeated: int = 0  # measurements of references, each made
    referenced: int = 0  # tasks whose reference is prepared
    adapters: int = 0  # written


def work_of(job: Job, config: Config, n_tasks: int) -> Work:
    """The work of a job; a suite has `n_tasks` tasks. Rules that only read and write tables have none."""
    if job.rule.startswith("adapt_"):
        return _adaptation(config, config.adaptation.runs[job.rule.removeprefix("adapt_")])
    subset = job.wildcards.get("subset")
    tasks = len(config.tasks.subsets.get(subset, [])) if subset else 0
    samples = tasks * config.sampling.k
    if job.rule == "rlvr_train":
        return _training(config)
    if job.rule == "sample_k64":
        return Work(True, 1, config.sampling.max_tokens, samples, tasks)
    if job.rule in ("score_logprobs", "score_logprobs_base"):
        return Work(True, passes=1, scored=samples, scored_prompts=tasks)
    if job.rule == "compile_and_time":
        _, _, shards = job.wildcards.get("scatteritem", "1-of-1").partition("-of-")
        return Work(evaluated=-(-samples // int(shards)), referenced=tasks)
    if job.rule == "nll_probe":
        probed = _tasks_of(config, config.adaptation.runs[job.wildcards["run"]])
        return Work(True, passes=1, scored=probed * config.sampling.k, scored_prompts=probed)
    if job.rule == "null_audit":
        audited = sum(len(ids) for name, ids in config.tasks.held_out.items() if name in config.null_audit.subsets)
        audited = len(config.null_audit.tasks) or audited or sum(map(len, config.tasks.held_out.values()))
        n_protocols = len(config.null_audit.protocols)
        return Work(repeated=audited * config.null_audit.repeats * n_protocols, referenced=audited * n_protocols)
    if job.rule == "time_experts":
        split = job.wildcards["split"]
        training = n_tasks - sum(map(len, config.tasks.held_out.values()))
        of_split = training if split == TRAIN else len(config.tasks.subsets[split])
        return Work(evaluated=of_split, referenced=of_split)
    return Work(loads_policy=job.rule == "fetch_policy")


def _tasks_of(config: Config, run: Run) -> int:
    return len(config.tasks.subsets[run.subset]) if run.subset else 1


def _training(config: Config) -> Work:
    rlvr = config.rlvr
    prompts = rlvr.steps * rlvr.tasks_per_step
    rollouts = prompts * rlvr.rollouts_per_task
    return Work(
        True,
        batches=rlvr.steps,
        longest=rlvr.max_tokens,
        samples=rollouts,
        drawn_prompts=prompts,
        updates=rlvr.steps,
        updated=rollouts,
        updated_prompts=prompts,
        evaluated=rollouts,
        referenced=prompts,
        adapters=len(rlvr.checkpoints),
    )


def _adaptation(config: Config, run: Run) -> Work:
    tasks, checkpoints = _tasks_of(config, run), run.steps + 1
    drawn = tasks * (run.rollouts + (run.fresh_rollouts if run.is_fresh else 0))
    updated = tasks * run.rollouts * run.steps
    return Work(
        True,
        batches=checkpoints * (2 if run.is_fresh else 1),
        longest=config.sampling.max_tokens,
        samples=drawn * checkpoints,
        drawn_prompts=tasks * checkpoints * (2 if run.is_fresh else 1),
        passes=run.steps if run.needs_scoring else 0,
        scored=updated if run.needs_scoring else 0,
        scored_prompts=(tasks * run.rollouts if run.method.teacher == "feedback" else tasks) * run.steps
        if run.needs_scoring
        else 0,
        updates=run.steps,
        updated=updated,
        updated_prompts=tasks * run.steps,
        evaluated=drawn * checkpoints,
        referenced=tasks * checkpoints * (2 if run.is_fresh else 1),
        adapters=checkpoints,
    )
