"""The teacher's contexts of self-distillation (SDPO): what is said after the task before the teacher scores a rollout.

    task · a correct solution of the same batch · execution feedback · the instruction

The teacher is the student itself, which scores the student's tokens in hindsight. The student's own code is never in its
context: errors lose every line that quotes it, and the solution is a different candidate's. Otherwise the teacher would
merely copy.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Verdict = Mapping[str, Any]  # a row of the evaluations table

INSTRUCTION = "Correctly solve the original question."
MAX_ERROR_LINES = 3
MAX_ERROR_CHARS = 300
MIN_QUOTE = 6  # characters of a code line that count as a quotation; shorter ones are in any text

_PLACE = re.compile(r'(?:File "[^"]*", )?line (\d+)(?:, in \S+)?:?\s*')
_MARKER = re.compile(r"[\s^~]*")


class Attempt(NamedTuple):
    """One rollout of a task: what the policy wrote, the candidate it makes, and what became of it."""

    text: str
    source: str
    sha256: str
    verdict: Verdict


def hindsight(attempts: Sequence[Attempt], *, feedback: bool, solution: bool) -> list[str]:
    """What follows the task in the teacher's context, for each attempt at one task.

    With `solution`, the first correct attempt whose candidate is not this one's own is shown, if there is one; with
    `feedback`, the verdict on this attempt.
    """
    correct = [one for one in attempts if one.verdict["status"] == "correct"]
    result = []
    for one in attempts:
        parts = []
        shown = next((other for other in correct if other.sha256 != one.sha256), None) if solution else None
        if shown:
            parts.append(f"A correct solution:\n{shown.text.strip()}")
        if feedback:
            parts.append(f"Feedback on an earlier attempt:\n{feedback_block(one.verdict, [one.text, one.source])}")
        result.append("\n\n".join([*parts, INSTRUCTION]))
    return result


def feedback_block(verdict: Verdict, code: Sequence[str]) -> str:
    """The verdict as lines `key: value`; runtimes in microseconds where there are any. `code` is what must not be quoted."""
    lines = [
        f"status: {_status(verdict)}",
        f"compiled: {_yes(verdict['status'] != 'compile_error')}",
        f"correct: {_yes(verdict['status'] == 'correct')}",
        f"speedup: {verdict['speedup']:.4f}",
    ]
    for name, ms in (("runtime_us", verdict["kernel_ms"]), ("reference_runtime_us", verdict["baseline_ms"])):
        if ms is not None:
            lines.append(f"{name}: {1e3 * ms:.2f}")
    if verdict["reason"]:
        lines.append(f"reason: {verdict['reason']}")
    if error := without_code(verdict["error"] or "", code):
        lines.append(f"error: {error}")
    return "\n".join(lines)


def without_code(error: str, code: Sequence[str]) -> str:
    """`error` on one line, shortened, without what it quotes of `code`, and without paths and markers below quotations.

    A line that quotes code loses it wherever it stands in the line; one that is itself a piece of the code is left out.
    """
    quoted = sorted({line.strip() for text in code for line in text.splitlines()}, key=len, reverse=True)
    quoted = [line for line in quoted if len(line) >= MIN_QUOTE]
    lines = [line for line in _unquoted(error, quoted, code) if line]
    text = " | ".join(lines[:MAX_ERROR_LINES])
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 1] + "…"


def _unquoted(error: str, quoted: Sequence[str], code: Sequence[str]) -> Iterator[str]:
    for line in error.splitlines():
        place = _PLACE.match(line.strip())
        rest = line.strip()[place.end() :] if place else line.strip()
        if _MARKER.fullmatch(rest) or any(rest in text for text in code):
            rest = ""
        for quotation in quoted:
            rest = rest.replace(quotation, "…")
        yield f"{f'line {place[1]}: ' if place else ''}{rest}".rstrip(": ")


def _status(verdict: Verdict) -> str:
    if verdict["status"] != "correct":
        return verdict["status"]
    return "success" if verdict["speedup"] > 1 else "correct_but_slow"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
