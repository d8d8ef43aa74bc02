# Requires: `policy.source`. Gives: the policy as a Hugging Face folder; provenance.json is written last.

from expert_tail.policy.settings import FetchSettings


rule fetch_policy:
    output:
        f"{POLICY}/provenance.json",
    log:
        "artifacts/logs/fetch_policy.log",
    benchmark:
        "artifacts/benchmarks/fetch_policy.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=growing(3000),
        runtime=growing(30),
    params:
        code=digest("fetch_policy"),
        policy=flags("policy", FetchSettings),
    shell:
        "python3 -P -m expert_tail --log {log} fetch_policy --output {output} {params.policy}"
