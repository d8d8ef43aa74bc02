# Requires: the loaded `config`. Gives: CONFIG (checked), what shell commands find, flags() and digest() for params,
# names of subsets and seeds.

import shlex
import sys

sys.path.insert(0, str(Path(workflow.basedir) / "src"))  # of several checkouts, the one whose code jobs run

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from expert_tail.code_digest import code_digest as digest
from expert_tail.config import parse_config
from expert_tail.errors import UserError
from expert_tail.workflow_lock import remove_stale_lock

try:
    CONFIG = parse_config(config)
except UserError as error:
    raise WorkflowError(f"configuration: {error}") from None

if workflow.is_main_process:  # not in the jobs that it starts
    remove_stale_lock(Path(".snakemake"))

# Jobs run the package beside this file with the Python that runs this, whose folder has the tools that compilers call; or
# with their environment's own, where they have one.
_deployed = {DeploymentMethod.CONDA, DeploymentMethod.APPTAINER} & set(workflow.deployment_settings.deployment_method)
_places = {"PYTHONPATH": Path(workflow.basedir) / "src"} | ({} if _deployed else {"PATH": Path(sys.executable).parent})
# Braces twice, since Snakemake formats the text.
shell.prefix(
    "".join(f"export {name}={shlex.quote(str(at))}${{{{{name}:+:${name}}}}}; " for name, at in _places.items())
)

TASKS = f"artifacts/tasks/{CONFIG.suite}.parquet"
POLICY = f"artifacts/policy/{CONFIG.policy.name}"
CHECKPOINT = f"artifacts/rlvr/checkpoints/step={CONFIG.rlvr.checkpoints[-1]}"
CHECKPOINT_FILES = ["adapter_config.json", "adapter_model.safetensors"]
_resources = workflow.resource_settings.resources
OFFERED_GPUS = _resources["gpu"].value if "gpu" in _resources else 0  # on the command line
RUNS = CONFIG.adaptation.model_copy(update={"only": CONFIG.runs})
ENVIRONMENT = "../envs/gpu.yaml" if "cuda" in (CONFIG.policy.device, CONFIG.evaluator.device) else "../envs/cpu.yaml"
if CONFIG.policy.engine == "vllm" and CONFIG.policy.device == "cuda" and DeploymentMethod.CONDA in _deployed:
    raise WorkflowError("envs/vllm.yaml is for a CPU: install vLLM yourself for a GPU, and leave out --sdm conda")
# "auto" takes vLLM where a GPU is, which is not known here: its environment is asked for by name.
SAMPLING_ENV = "../envs/vllm.yaml" if CONFIG.policy.engine == "vllm" else ENVIRONMENT
STEP_TABLES = ["rollouts.parquet", "evaluations.parquet", "account.parquet"]
FRESH_TABLES = ["fresh_rollouts.parquet", "fresh_evaluations.parquet"]


wildcard_constraints:
    subset="[^/]+",
    seed=r"\d+",


def flags(section, part=None):
    """Canonical command-line flags of a config section, or of the `part` of it that a stage reads."""
    settings = getattr(CONFIG, section)
    return (settings.narrowed(part) if part else settings).flags(section)


def evaluator_flags():
    """Those of the evaluator, without settings that no verdict depends on since they are of the other protocol."""
    return CONFIG.evaluator.flags("evaluator", without=CONFIG.evaluator.of_other_protocol)


def growing(amount):
    """A resource that a job is given more of each time it is tried again."""
    return lambda wildcards, attempt: amount * attempt


def gpus(*sections, processes=1):
    """GPUs that a job asks for, if a section names `cuda`, or `auto` where `--resources gpu=N` offers some: one, or one for
    each of its processes or each shard of the policy."""
    wanted = ("cuda", "auto") if OFFERED_GPUS else ("cuda",)
    named = any(getattr(CONFIG, section).device in wanted for section in sections)
    runs_policy = "policy" in sections and CONFIG.policy.device != "cpu"
    return named * (max(processes, CONFIG.policy.shards) if runs_policy else 1)


def own_node():
    """What a job that times candidates on a CPU asks SLURM for: others on its node would disturb it."""
    return "" if gpus("evaluator") else "--exclusive"


def cores(*sections):
    """Threads of a job that leaves no core to others; where there are several GPUs, to others on its own GPU."""
    wanted = gpus(*sections)
    return max(1, workflow.cores // max(1, OFFERED_GPUS // wanted if wanted else 1))


def half_the_cores(*sections):
    """Threads of a job that takes longer to load its libraries than to work: two at a time, unless on a GPU of their own."""
    return max(1, cores(*sections) // (1 if gpus(*sections) else 2))


def every(kind, subsets=CONFIG.sampling.subsets):
    """The artifacts of a kind for these subsets and all seeds of the configuration."""
    return expand(
        "artifacts/{kind}/{subset}/seed={seed}.parquet",
        kind=kind,
        subset=subsets,
        seed=CONFIG.sampling.seeds,
    )


def headroom_of(splits):
    """The headroom artifacts of these subsets, or of `train`."""
    return expand("artifacts/headroom/{split}.parquet", split=splits)


def folder_of(name):
    """The folder in which a job's input `name` (a file, or the first of several) lies."""

    def folder(wildcards, input):
        files = getattr(input, name)
        return str(Path(files if isinstance(files, str) else files[0]).parent)

    return folder


def steps_of(run, files):
    """`files` of all steps of an adaptation run."""
    folder = f"artifacts/adapt/{run}/step="
    return [f"{folder}{n}/{file}" for n in range(CONFIG.adaptation.runs[run].steps + 1) for file in files]


def tables_of_run(run):
    return steps_of(run, STEP_TABLES + FRESH_TABLES * CONFIG.adaptation.runs[run].is_fresh)


def start_of(run):
    """Folder of the checkpoint that a run starts from."""
    start = CONFIG.adaptation.runs[run].start
    if start is None:
        return CHECKPOINT
    return f"artifacts/adapt/{start.run}/" + ("boa" if start.step == "boa" else f"step={start.step}")


def samples_for(run, kind="samples"):
    """The Best-of-N samples that a run is probed with, or their evaluations."""
    return f"artifacts/{kind}/{CONFIG.subset_of(run)}/seed={CONFIG.probe_seed}.parquet"


def captions_of(files):
    """The captions that there are for these tables and figures."""
    found = [Path(workflow.basedir) / "report" / f"{Path(file).stem}.rst" for file in files]
    return [os.path.relpath(caption) for caption in found if caption.exists()]
