# Requires: tasks. Gives: how often the evaluator calls a reference faster than itself. Takes all cores, like any timing.
# A killed job goes on from the cache of evaluations, where every repeat has an entry of its own.


rule null_audit:
    input:
        tasks=TASKS,
    output:
        report("results/null_audit.csv", caption="../report/null_audit.rst", category="Tables"),
        report("results/figure_null_audit.svg", caption="../report/figure_null_audit.rst", category="Figures"),
        "results/figure_null_audit.png",
        measurements=expand("artifacts/null_audit/{protocol}.parquet", protocol=CONFIG.null_audit.protocols),
    log:
        "artifacts/logs/null_audit.log",
    benchmark:
        "artifacts/benchmarks/null_audit.tsv"
    conda:
        ENVIRONMENT
    threads: cores("evaluator")
    resources:
        mem_mb=growing(6000),
        runtime=growing(120),
        gpu=gpus("evaluator"),
        slurm_extra=own_node(),
    params:
        code=digest("null_audit"),
        null_audit=flags("null_audit"),
        evaluator=flags("evaluator"),
    shell:
        "python3 -P -m expert_tail --log {log} null_audit --tasks {input.tasks} --measurements artifacts/null_audit --output results"
        " {params.null_audit} {params.evaluator}"
