# Requires: `tasks` of the configuration. Gives: the suite as a table, with the split.

from expert_tail.tasks import files_of


rule tasks:
    input:
        files_of(CONFIG.tasks.source),
    output:
        TASKS,
    log:
        "artifacts/logs/tasks.log",
    benchmark:
        "artifacts/benchmarks/tasks.tsv"
    conda:
        "../envs/cpu.yaml"
    params:
        code=digest("tasks"),
        tasks=flags("tasks"),
    shell:
        "python3 -P -m expert_tail --log {log} tasks --output {output} {params.tasks}"
