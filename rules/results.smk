# Requires: all artifacts of the configured subsets and seeds. Gives: tables, figures, and the configuration they are of.


rule aggregate:
    input:
        tasks=TASKS,
        rollouts="artifacts/rlvr/rollouts.parquet",
        samples=every("samples"),
        evaluations=every("evaluations"),
        logprobs=every("logprobs"),
        selections=every("selections"),
        headroom=headroom_of(CONFIG.sampling.subsets if CONFIG.headroom.mark else []),
        config=ancient("results/config.yaml"),  # is of this run, too, but no reason to make the tables again
    output:
        report("results/table1.csv", caption="../report/table1.rst", category="Tables"),
        report("results/table2.csv", caption="../report/table2.rst", category="Tables"),
        report("results/table3.csv", caption="../report/table3.rst", category="Tables"),
        report("results/table5.csv", caption="../report/table5.rst", category="Tables"),
        report("results/table8.csv", caption="../report/table8.rst", category="Tables"),
        report("results/figure3.svg", caption="../report/figure3.rst", category="Figures"),
        report("results/figure4.svg", caption="../report/figure4.rst", category="Figures"),
        "results/figure3.png",
        "results/figure4.png",
    log:
        "artifacts/logs/aggregate.log",
    benchmark:
        "artifacts/benchmarks/aggregate.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=digest("aggregate"),
        aggregate=flags("aggregate"),
    shell:
        "python3 -P -m expert_tail --log {log} aggregate --tasks {input.tasks} --rollouts {input.rollouts} --samples {input.samples}"
        " --evaluations {input.evaluations} --logprobs {input.logprobs} --selections {input.selections}"
        " --headroom {input.headroom} --output results {params.aggregate}"


rule record_config:
    output:
        "results/config.yaml",
    log:
        "artifacts/logs/record_config.log",
    benchmark:
        "artifacts/benchmarks/record_config.tsv"
    params:
        config=CONFIG.model_dump_json(),
    run:
        import json
        import yaml

        Path(output[0]).write_text(yaml.safe_dump(json.loads(params.config), sort_keys=False))
