# Requires: tasks, samples. Gives: verdict and timing of every sample. Takes all cores, so that nothing runs beside a timing.
# With several shards each is a job of its own, for a node of its own; a rule puts them together. Distinct candidates are
# dealt out to them, and all share the cache of evaluations, so that another number of shards measures nothing again.


scattergather:
    evaluations=CONFIG.evaluations.shards,


N_SHARDS = len(gather.evaluations("{scatteritem}"))  # --set-scatter counts, too
_SHARD = "{subset}/seed={seed}/{scatteritem}" if N_SHARDS > 1 else "{subset}/seed={seed}"


rule compile_and_time:
    input:
        tasks=TASKS,
        samples="artifacts/samples/{subset}/seed={seed}.parquet",
    output:
        f"artifacts/evaluations/{_SHARD}.parquet",
    log:
        f"artifacts/logs/compile_and_time/{_SHARD}.log",
    benchmark:
        f"artifacts/benchmarks/compile_and_time/{_SHARD}.tsv"
    conda:
        ENVIRONMENT
    threads: cores("evaluator")
    resources:
        mem_mb=growing(6000),
        runtime=growing(120),
        gpu=gpus("evaluator"),
        slurm_extra=own_node(),
    params:
        code=digest("compile_and_time"),
        evaluator=evaluator_flags(),
        shard=lambda wildcards: f"--shard {wildcards.scatteritem}" if N_SHARDS > 1 else "",
    shell:
        "python3 -P -m expert_tail --log {log} compile_and_time --tasks {input.tasks} --samples {input.samples} --output {output}"
        " {params.evaluator} {params.shard}"


if N_SHARDS > 1:

    rule gather_evaluations:
        input:
            samples="artifacts/samples/{subset}/seed={seed}.parquet",
            shards=gather.evaluations("artifacts/evaluations/{{subset}}/seed={{seed}}/{scatteritem}.parquet"),
        output:
            "artifacts/evaluations/{subset}/seed={seed}.parquet",
        log:
            "artifacts/logs/gather_evaluations/{subset}/seed={seed}.log",
        benchmark:
            "artifacts/benchmarks/gather_evaluations/{subset}/seed={seed}.tsv"
        conda:
            "../envs/cpu.yaml"
        resources:
            mem_mb=growing(2000),
            runtime=growing(30),
        params:
            code=digest("gather_evaluations"),
        shell:
            "python3 -P -m expert_tail --log {log} gather_evaluations --samples {input.samples} --shards {input.shards} --output {output}"
