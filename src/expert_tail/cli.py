"""The command line: one subcommand a rule, flags named like the keys of config.yaml, and `evaluate` for a single file.

Stages are described in `stages` and imported when they run, so that `--help` and the Snakefile start without torch.
"""

import argparse
import errno
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expert_tail import __version__
from expert_tail.errors import UserError, is_out_of_memory
from expert_tail.gpus import claim_gpus, keep_claims
from expert_tail.progress import is_first_process, log, log_quietly, log_to
from expert_tail.stages import STAGES, Stage

_TRAINS = ("rlvr_train", "adapt")  # stages that several processes may run together
_LESS_MEMORY = (
    "out of memory: `policy.shards` divides the policy over GPUs, and training goes on from its last finished step; "
    "`policy.dtype: bfloat16` halves it, fewer rollouts or `max_tokens` need less beside it, and make it start anew"
)
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when it did what was asked, 1 on a failure that the user can act on, 2 on bad arguments, 130 after
    Ctrl-C.
    """
    given = _parser().parse_args(arguments)
    try:
        if given.processes > 1 and "RANK" not in os.environ:
            _start_processes(given, sys.argv[1:] if arguments is None else arguments)
        if given.log and is_first_process():
            log_to(given.log)
        given.run(given)
        sys.stdout.flush()
    except UserError as error:
        log(f"expert-tail {given.command}: {error}", always=True)
        return 2 if error.is_usage else 1
    except BrokenPipeError:
        _discard_output()
        return 1
    except KeyboardInterrupt:
        log(f"expert-tail {given.command}: stopped; what is finished is kept, so run the same command again")
        return 128 + signal.SIGINT
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            what = f"cannot write {error.filename or 'the output'}: {os.strerror(error.errno)}"
            log(f"expert-tail {given.command}: {what}; free space or permit writing there, then run again")
            _discard_output()
            return 1
        log_quietly(traceback.format_exc())
        if is_out_of_memory(error):
            stage = getattr(given, "stage", None)
            advice = f"\n{_LESS_MEMORY}" if stage is not None and "runtime" in stage.sections else ""
            log(f"expert-tail {given.command}: {' '.join(str(error).split())[:300]}{advice}", always=True)
            return 1
        raise
    return 0


def _start_processes(given: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Become torchrun, which runs this command line once in each process and ends them all where one fails.

    The GPUs that the processes divide among themselves are claimed for as long as it lives.
    """
    if given.command not in _TRAINS:
        _parser().error(f"--processes is for {' and '.join(_TRAINS)}")
    _claim_gpus(_settings(given), given.processes)
    keep_claims()
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // given.processes))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={given.processes}"]
    os.execve(sys.executable, [*command, "--module", "--", "expert_tail", *arguments], threads | os.environ)


def _discard_output() -> None:
    """What is still to be printed would fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="expert-tail", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"expert-tail {__version__}")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep messages and plain progress in FILE too")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help=f"run {' or '.join(_TRAINS)} as N processes of this machine, each with a GPU where there are some",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage in STAGES:
        command = commands.add_parser(stage.name, help=stage.help, description=stage.help)
        for name, text in stage.paths.items():
            command.add_argument(f"--{name}", type=Path, required=True, help=text)
        for name, text in stage.optional.items():
            command.add_argument(f"--{name}", type=Path, help=text)
        for name, text in (stage.lists | stage.optional_lists).items():
            command.add_argument(f"--{name}", type=Path, nargs="*", required=name in stage.lists, default=[], help=text)
        for name, (kind, text) in stage.values.items():
            command.add_argument(f"--{name}", type=kind, required=True, help=text)
        for name, text in stage.options.items():
            command.add_argument(f"--{name}", help=text)
        for section, place in stage.sections.values():
            _class(place).add_flags(command, section)
        command.set_defaults(run=_run_stage, stage=stage)
    _add_tasks(commands)
    _add_evaluate(commands)
    _add_cache(commands)
    _add_plan(commands)
    return parser


def _run_stage(given: argparse.Namespace) -> None:
    stage: Stage = given.stage
    for name in stage.lists:
        if not getattr(given, name):
            raise UserError(f"--{name} names no file; give {stage.lists[name]}", is_usage=True)
    arguments = _settings(given)
    for name in (*stage.paths, *stage.optional, *stage.lists, *stage.optional_lists, *stage.values, *stage.options):
        arguments[name] = getattr(given, name)
    if given.processes == 1:
        _claim_gpus(arguments)
    importlib.import_module(f"expert_tail.{stage.name}.stage").run(**arguments)


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    return {
        parameter: _class(place).from_arguments(given, section)
        for parameter, (section, place) in given.stage.sections.items()
    }


def _claim_gpus(settings: dict[str, Any], processes: int = 1) -> None:
    if any(getattr(value, "device", "cpu") != "cpu" for value in settings.values()):
        runtime = settings.get("runtime")
        claim_gpus(max(processes, runtime.shards) if runtime and runtime.device != "cpu" else 1)


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _add_tasks(commands: Any) -> None:
    text = "list a suite, show a task's reference, or write the tasks artifact"
    command = commands.add_parser("tasks", help=text, description=text)
    command.add_argument("--suite", help="level1, a KernelBench folder or a Parquet file (short for --tasks.source)")
    command.add_argument("--scale", choices=("cpu", "gpu"), help="short for --tasks.scale")
    command.add_argument("--json", action="store_true", help="list as JSON")
    command.add_argument("--show", type=int, metavar="ID", help="print the reference source of a task")
    command.add_argument("--output", type=Path, help="write the tasks artifact (Parquet) instead of listing")
    _class("expert_tail.tasks.settings:TaskSettings").add_flags(command, "tasks")
    command.set_defaults(run=_tasks)


def _tasks(given: argparse.Namespace) -> None:
    from expert_tail.tasks import load_suite
    from expert_tail.tasks.settings import TaskSettings
    from expert_tail.tasks.stage import run

    settings = TaskSettings.from_arguments(given, "tasks")
    settings = settings.model_copy(update={k: v for k, v in {"source": given.suite, "scale": given.scale}.items() if v})
    if given.output:
        run(settings, given.output)
        return
    suite = load_suite(settings.source, settings.scale)
    if given.show is not None:
        found = [task for task in suite if task.task_id == given.show]
        if not found:
            raise UserError(f"suite {settings.source} has no task {given.show}; `expert-tail tasks` lists them")
        print(found[0].reference_source, end="")
    elif given.json:
        columns = ("task_id", "name", "level", "source_sha256")
        print(json.dumps([{column: getattr(task, column) for column in columns} for task in suite], indent=1))
    else:
        for task in suite:
            print(f"{task.task_id:6d}  {task.name}")


def _add_evaluate(commands: Any) -> None:
    text = "evaluate one candidate file: verdict and timing as one JSON object"
    command = commands.add_parser("evaluate", help=text, description=text)
    command.add_argument("--task", type=int, required=True, metavar="ID", help="as `expert-tail tasks` lists them")
    command.add_argument(
        "--candidate", type=Path, required=True, metavar="FILE", help="what a policy would write: see --action"
    )
    command.add_argument(
        "--action",
        choices=("forward_body", "module"),
        default="module",
        help="what FILE holds: the lines of `forward` alone, or a whole module with ModelNew (default: module)",
    )
    command.add_argument("--suite", default="level1", help="level1 (default), a KernelBench folder or a Parquet file")
    command.add_argument("--scale", choices=("cpu", "gpu"), help="sizes of the built-in suite (default: the device's)")
    command.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="short for --evaluator.device"
    )
    command.add_argument(
        "--protocol", choices=("paired", "paper"), default="paired", help="short for --evaluator.protocol"
    )
    command.add_argument("--no-cache", action="store_true", help="measure again even if it was measured before")
    command.add_argument("--json", action="store_true", help="print JSON on one line")
    _class("expert_tail.evaluator.settings:EvaluatorSettings").add_flags(command, "evaluator")
    command.set_defaults(run=_evaluate)


def _evaluate(given: argparse.Namespace) -> None:
    from expert_tail.compile_and_time.single import evaluate_file

    setattr(given, "evaluator.device", getattr(given, "evaluator.device", given.device))
    setattr(given, "evaluator.protocol", getattr(given, "evaluator.protocol", given.protocol))
    settings = _class("expert_tail.evaluator.settings:EvaluatorSettings").from_arguments(given, "evaluator")
    row = evaluate_file(
        given.candidate, given.task, given.action, given.suite, given.scale, settings, use_cache=not given.no_cache
    )
    print(json.dumps(row, indent=None if given.json else 1), flush=True)
    if row["reason"] == "reference_failed":
        raise UserError(
            f"no verdict on the candidate: the reference of task {given.task} fails itself, as `error` says; correct the task"
        )
    if row["reason"] == "busy_device":
        raise UserError("no verdict on the candidate: this machine was busy with others, as `error` says; run again")


def _add_cache(commands: Any) -> None:
    text = "show the evaluation cache, or remove entries from it"
    command = commands.add_parser("cache", help=text, description=text)
    command.add_argument("--json", action="store_true", help="print JSON on one line")
    command.add_argument(
        "--keep",
        nargs="+",
        metavar="EVALUATOR",
        default=[],
        help="remove what none of these measured; the column `evaluator` of a table, and `measured_by` here, name them",
    )
    command.add_argument("--prune-status", metavar="STATUS", help="remove entries of one status, for example timeout")
    command.add_argument(
        "--prune-compiled",
        action="store_true",
        help="remove compiled code, while nothing is evaluated; what is needed is made again",
    )
    command.set_defaults(run=_cache)


def _cache(given: argparse.Namespace) -> None:
    from expert_tail.evaluator.cache import Cache, cache_folder

    cache = Cache(cache_folder())
    print(
        json.dumps(
            cache.summary(keep=given.keep, prune_status=given.prune_status, prune_compiled=given.prune_compiled),
            indent=None if given.json else 1,
        )
    )


def _add_plan(commands: Any) -> None:
    text = "what a configuration will take: jobs, GPU hours, tokens, disk and memory, before anything is started"
    command = commands.add_parser("plan", help=text, description=text)
    command.add_argument("--config", type=Path, nargs="*", default=[], metavar="FILE", help="as snakemake --configfile")
    command.add_argument("--target", default="all", help="rule or file (default: all)")
    command.add_argument("--directory", type=Path, default=Path(), help="where it would run; what is there is done")
    command.add_argument(
        "--snakefile", type=Path, default=Path("Snakefile"), help="of the workflow (default: Snakefile)"
    )
    command.add_argument("--device", choices=("cpu", "h100"), help="default: h100 for sizes of a GPU, else cpu")
    command.add_argument(
        "--parameters", type=float, metavar="BILLIONS", help="of the policy, where its name does not say"
    )
    command.add_argument("--active", type=float, metavar="BILLIONS", help="of a mixture of experts: those of one token")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_plan)


def _plan(given: argparse.Namespace) -> None:
    from expert_tail.plan.stage import as_json, as_text, plan

    if not given.snakefile.exists():
        raise UserError(
            f"there is no {given.snakefile}; run this in the workflow's folder, or give --snakefile", is_usage=True
        )
    arguments = (
        given.config,
        given.target,
        given.directory,
        given.snakefile,
        given.device,
        given.parameters,
        given.active,
    )
    made = plan(*arguments)
    print(as_json(made) if given.json else as_text(made))


if __name__ == "__main__":
    sys.exit(main())
