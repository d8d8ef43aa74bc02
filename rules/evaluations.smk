# Requires: tasks, samples. Gives: verdict and timing of every sample. Takes all cores, so that nothing runs beside a timing.


rule compile_and_time:
    input:
        tasks=TASKS,
        samples="artifacts/samples/{subset}/seed={seed}.parquet",
    output:
        "artifacts/evaluations/{subset}/seed={seed}.parquet",
    log:
        "artifacts/logs/compile_and_time/{subset}/seed={seed}.log",
    benchmark:
        "artifacts/benchmarks/compile_and_time/{subset}/seed={seed}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: workflow.cores
    resources:
        mem_mb=6000,
        runtime=120,
    params:
        code=digest("compile_and_time"),
        evaluator=flags("evaluator"),
    shell:
        "expert-tail --log {log} compile_and_time --tasks {input.tasks} --samples {input.samples} --output {output}"
        " {params.evaluator}"
