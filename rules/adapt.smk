# Requires: tasks, policy, the last checkpoint (or another run's). Gives: each step of every adaptation run, and its best.
# A killed job resumes from artifacts/adapt/RUN/state, which Snakemake does not touch.

from expert_tail.policy.settings import DrawSettings, RuntimeSettings

# Rewards and verdicts are those of the evaluator of their time, unless the configuration asks otherwise.
_UNWATCHED = [] if CONFIG.adaptation.rerun_on_evaluator_change else ["evaluator"]
STEP_FILES = ["rollouts.parquet", "evaluations.parquet", "account.parquet", *CHECKPOINT_FILES]
FRESH_FILES = ["fresh_rollouts.parquet", "fresh_evaluations.parquet"]


wildcard_constraints:
    run=r"\w[\w.-]*",
    n=r"\d+",


def steps_of(run, files):
    """`files` of all steps of an adaptation run."""
    folder = f"artifacts/adapt/{run}/step="
    return [f"{folder}{n}/{file}" for n in range(CONFIG.adaptation.runs[run].steps + 1) for file in files]


def files_of_run(run):
    return steps_of(run, STEP_FILES + FRESH_FILES * CONFIG.adaptation.runs[run].is_fresh)


def start_of(run):
    """Folder of the checkpoint that a run starts from."""
    start = CONFIG.adaptation.runs[run].start
    if start is None:
        return CHECKPOINT
    return f"artifacts/adapt/{start.run}/" + ("boa" if start.step == "boa" else f"step={start.step}")


# A rule for each run, since the number of its outputs depends on its settings.
for _run in CONFIG.adaptation.runs:

    rule:
        name:
            f"adapt_{_run}"
        input:
            tasks=TASKS,
            policy=f"{POLICY}/provenance.json",
            adapter=expand("{folder}/{file}", folder=start_of(_run), file=CHECKPOINT_FILES),
        output:
            files_of_run(_run),
        log:
            f"artifacts/logs/adapt/{_run}.log",
        benchmark:
            f"artifacts/benchmarks/adapt/{_run}.tsv"
        conda:
            "../envs/cpu.yaml"
        threads: workflow.cores
        resources:
            mem_mb=6000,
            runtime=240,
        params:
            code=digest("adapt.stage", without=_UNWATCHED),
            policy=folder_of("policy"),
            adapter=folder_of("adapter"),
            folder=f"artifacts/adapt/{_run}",
            run=CONFIG.adaptation.runs[_run].flags("run"),
            sampling=flags("sampling", DrawSettings),
            prompt=flags("prompt"),
            runtime=flags("policy", RuntimeSettings),
            evaluator=flags("evaluator"),
        shell:
            "expert-tail --log {log} adapt --tasks {input.tasks} --policy {params.policy} --adapter {params.adapter}"
            " --state {params.folder}/state --output {params.folder}"
            " {params.run} {params.sampling} {params.prompt} {params.runtime} {params.evaluator}"


rule best_of_adaptation:
    input:
        evaluations=lambda wildcards: steps_of(wildcards.run, ["evaluations.parquet"]),
        adapters=lambda wildcards: steps_of(wildcards.run, CHECKPOINT_FILES),
    output:
        expand("artifacts/adapt/{{run}}/boa/{file}", file=CHECKPOINT_FILES),
    log:
        "artifacts/logs/best_of_adaptation/{run}.log",
    benchmark:
        "artifacts/benchmarks/best_of_adaptation/{run}.tsv"
    conda:
        "../envs/cpu.yaml"
    params:
        code=digest("best_of_adaptation"),
    shell:
        "expert-tail --log {log} best_of_adaptation --evaluations {input.evaluations}"
        " --output artifacts/adapt/{wildcards.run}/boa"
