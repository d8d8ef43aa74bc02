# Requires: `policy.source`. Gives: the policy as a Hugging Face folder; provenance.json is written last.

from expert_tail.policy.settings import FetchSettings

# Weights that change in a folder of the user's are another policy.
_FOLDER = Path(CONFIG.policy.source.removeprefix("path:")) if CONFIG.policy.source.startswith("path:") else None


rule fetch_policy:
    input:
        sorted(str(file) for file in _FOLDER.glob("[!.]*") if file.is_file()) if _FOLDER and _FOLDER.is_dir() else [],
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
