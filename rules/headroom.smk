# Requires: tasks, the experts. Gives: what an expert reaches on each task, and where there is nothing to be won.
# `time_experts` takes all cores, so that nothing runs beside a timing; it goes on from the cache of evaluations.

from expert_tail.tasks import TRAIN
from expert_tail.time_experts.folder import digest_of

EXPERTS = Path(workflow.basedir) / CONFIG.headroom.experts


rule time_experts:
    input:
        tasks=TASKS,
    output:
        "artifacts/headroom/{split}.parquet",
    log:
        "artifacts/logs/time_experts/{split}.log",
    benchmark:
        "artifacts/benchmarks/time_experts/{split}.tsv"
    conda:
        ENVIRONMENT
    threads: cores("evaluator")
    resources:
        mem_mb=growing(6000),
        runtime=growing(60),
        gpu=gpus("evaluator"),
        slurm_extra=own_node(),
    params:
        code=digest("time_experts"),
        experts=os.path.relpath(EXPERTS),
        expert_files=digest_of(EXPERTS),
        headroom=flags("headroom"),
        evaluator=evaluator_flags(),
    shell:
        "python3 -P -m expert_tail --log {log} time_experts --tasks {input.tasks} --experts {params.experts} --split {wildcards.split}"
        " --output {output} {params.headroom} {params.evaluator}"


rule headroom:
    input:
        measured=headroom_of([*CONFIG.tasks.held_out, TRAIN]),
    output:
        report("results/headroom.csv", caption="../report/headroom.rst", category="Tables"),
        report("results/figure_headroom.svg", caption="../report/figure_headroom.rst", category="Figures"),
        "results/figure_headroom.png",
    log:
        "artifacts/logs/headroom.log",
    benchmark:
        "artifacts/benchmarks/headroom.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=digest("headroom"),
    shell:
        "python3 -P -m expert_tail --log {log} headroom --measured {input.measured} --output results"
