# Requires: everything of all compared subsets and seeds, adaptation runs, probes. Gives: the paper's other tables and
# figures, statistics.json, and the published numbers beside ours.

from expert_tail.paper_vs_run import PUBLISHED


rule comparison:
    input:
        tasks=TASKS,
        policy=f"{POLICY}/provenance.json",
        rollouts="artifacts/rlvr/rollouts.parquet",
        samples=every("samples", CONFIG.compared_subsets),
        evaluations=every("evaluations", CONFIG.compared_subsets),
        logprobs=every("logprobs", CONFIG.compared_subsets),
        selections=every("selections", CONFIG.compared_subsets),
        runs=[file for run in CONFIG.runs for file in tables_of_run(run)],
        probes=PROBES,
        probed=PROBED,
        headroom=headroom_of(CONFIG.compared_subsets if CONFIG.headroom.mark else []),
    output:
        report("results/table4.csv", caption="../report/table4.rst", category="Tables"),
        report("results/table6.csv", caption="../report/table6.rst", category="Tables"),
        report("results/table7.csv", caption="../report/table7.rst", category="Tables"),
        report("results/table9.csv", caption="../report/table9.rst", category="Tables"),
        report("results/table10.csv", caption="../report/table10.rst", category="Tables"),
        report("results/table11.csv", caption="../report/table11.rst", category="Tables"),
        report("results/table12.csv", caption="../report/table12.rst", category="Tables"),
        report("results/adaptation_by_task.csv", caption="../report/adaptation_by_task.rst", category="Tables"),
        report("results/statistics.json", caption="../report/statistics.rst", category="Tables"),
        report("results/figure1.svg", caption="../report/figure1.rst", category="Figures"),
        report("results/figure2.svg", caption="../report/figure2.rst", category="Figures"),
        report("results/figure5.svg", caption="../report/figure5.rst", category="Figures"),
        report("results/figure6.svg", caption="../report/figure6.rst", category="Figures"),
        report("results/figure7.svg", caption="../report/figure7.rst", category="Figures"),
        expand("results/figure{n}.png", n=[1, 2, 5, 6, 7]),
    log:
        "artifacts/logs/comparison.log",
    benchmark:
        "artifacts/benchmarks/comparison.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=digest("comparison"),
        policy=folder_of("policy"),
        aggregate=flags("aggregate"),
        comparison=flags("comparison"),
        adaptation=RUNS.flags("adaptation"),
        prompt=flags("prompt"),
    shell:
        "python3 -P -m expert_tail --log {log} comparison --tasks {input.tasks} --policy {params.policy} --rollouts {input.rollouts}"
        " --samples {input.samples} --evaluations {input.evaluations} --logprobs {input.logprobs}"
        " --selections {input.selections} --runs artifacts/adapt --probes {input.probes} --probed {input.probed}"
        " --headroom {input.headroom}"
        " --output results {params.aggregate} {params.comparison} {params.adaptation} {params.prompt}"


rule paper_vs_run:
    input:
        rules.aggregate.output,
        rules.adaptation_tables.output,
        rules.comparison.output,
        rules.record_config.output,
        published=os.path.relpath(PUBLISHED),
    output:
        report("results/paper_vs_run.csv", caption="../report/paper_vs_run.rst", category="Tables"),
    log:
        "artifacts/logs/paper_vs_run.log",
    benchmark:
        "artifacts/benchmarks/paper_vs_run.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=digest("paper_vs_run"),
    shell:
        "python3 -P -m expert_tail --log {log} paper_vs_run --results results --output {output}"
