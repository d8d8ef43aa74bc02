# Requires: tasks, evaluations, surprisal. Gives: what each strategy picks.


rule select:
    input:
        tasks=TASKS,
        evaluations="artifacts/evaluations/{subset}/seed={seed}.parquet",
        logprobs="artifacts/logprobs/{subset}/seed={seed}.parquet",
    output:
        "artifacts/selections/{subset}/seed={seed}.parquet",
    log:
        "artifacts/logs/select/{subset}/seed={seed}.log",
    benchmark:
        "artifacts/benchmarks/select/{subset}/seed={seed}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=digest("select"),
        select=flags("select"),
    shell:
        "python3 -P -m expert_tail --log {log} select --tasks {input.tasks} --evaluations {input.evaluations} --logprobs {input.logprobs}"
        " --subset {wildcards.subset} --output {output} {params.select}"
