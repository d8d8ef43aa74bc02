# Requires: tasks, policy, the last checkpoint (or another run's). Gives: each step of every adaptation run, and its best.
# A killed job resumes from artifacts/adapt/RUN/state, which Snakemake does not touch.

from expert_tail.policy.settings import DrawSettings, RuntimeSettings

# Rewards and verdicts are those of the evaluator of their time, unless the configuration asks otherwise.
_UNWATCHED = [] if CONFIG.adaptation.rerun_on_evaluator_change else ["evaluator"]
_CODE = digest("adapt.stage", without=_UNWATCHED)


wildcard_constraints:
    run=r"\w[\w.-]*",
    n=r"\d+",


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
            tables_of_run(_run),
            steps_of(_run, CHECKPOINT_FILES),
        log:
            f"artifacts/logs/adapt/{_run}.log",
        benchmark:
            f"artifacts/benchmarks/adapt/{_run}.tsv"
        conda:
            SAMPLING_ENV
        threads: cores("policy", "evaluator")
        resources:
            mem_mb=growing(6000),
            runtime=growing(240),
            gpu=gpus("policy", "evaluator", processes=CONFIG.policy.processes),
            processes=CONFIG.policy.processes,
            slurm_extra=own_node(),
        params:
            code=_CODE,
            policy=folder_of("policy"),
            adapter=folder_of("adapter"),
            folder=lambda wildcards, output: str(Path(output[0]).parents[1]),
            run=CONFIG.adaptation.runs[_run].flags("run"),
            sampling=flags("sampling", DrawSettings),
            prompt=flags("prompt"),
            runtime=flags("policy", RuntimeSettings),
            evaluator=evaluator_flags(),
        shell:
            "python3 -P -m expert_tail --log {log} --processes {resources.processes} adapt"
            " --tasks {input.tasks} --policy {params.policy} --adapter {params.adapter}"
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
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=digest("best_of_adaptation"),
    shell:
        "python3 -P -m expert_tail --log {log} best_of_adaptation --evaluations {input.evaluations}"
        " --output artifacts/adapt/{wildcards.run}/boa"
