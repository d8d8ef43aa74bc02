"""Settings of a stage: one pydantic model is the source of defaults, config keys, command-line flags and rule params."""

import argparse
import difflib
import json
import shlex
from collections.abc import Iterable
from types import UnionType
from typing import Any, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from expert_tail.errors import UserError

Part = TypeVar("Part", bound="Settings")


class Settings(BaseModel):
    """Base of every settings section: immutable, unknown keys refused, flags read as the field's type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read_flags(cls, values: Any) -> Any:
        if isinstance(values, str) and values.startswith("{"):
            values = json.loads(values)
        if not isinstance(values, dict):
            return values
        kinds = {name: get_origin(field.annotation) for name, field in cls.model_fields.items()}
        return {key: _parsed(value, kinds.get(key)) for key, value in values.items()}

    @classmethod
    def checked(cls, values: dict[str, Any], where: str) -> Self:
        """Validate `values`; a `UserError` names each offending key under `where` and the nearest known key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError("\n".join(_explain(cls, problem, where) for problem in error.errors())) from None

    def flags(self, section: str, without: Iterable[str] = ()) -> str:
        """Command-line flags `--section.key value` that recreate these settings: a canonical string, fit for `params`."""
        parts = []
        for name in sorted(type(self).model_fields.keys() - set(without)):
            value = getattr(self, name)
            if value is not None:
                parts += [f"--{section}.{name}", shlex.quote(_as_text(value))]
        return " ".join(parts)

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser, section: str) -> None:
        group = parser.add_argument_group(f"{section} (keys of config.yaml)")
        for name, field in cls.model_fields.items():
            default = (
                "" if field.is_required() else f" (default: {_as_text(field.get_default(call_default_factory=True))})"
            )
            text = f"{field.description or ''}{default}".replace("%", "%%")
            group.add_argument(f"--{section}.{name}", default=argparse.SUPPRESS, metavar="…", help=text)

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace, section: str) -> Self:
        given = {
            name: value
            for name in cls.model_fields
            if (value := getattr(arguments, f"{section}.{name}", None)) is not None
        }
        try:
            return cls.checked(given, where=section)
        except UserError as error:
            raise UserError(str(error), is_usage=True) from None

    def narrowed(self, cls: type[Part]) -> Part:
        """The fields of `cls`, which this section includes."""
        return cls(**{name: getattr(self, name) for name in cls.model_fields})


def _parsed(value: Any, kind: Any) -> Any:
    if isinstance(value, str) and kind in (list, tuple):
        return [part for part in value.split(",") if part]
    if isinstance(value, str) and kind is dict:
        return json.loads(value)
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, default=lambda section: section.model_dump())
    if isinstance(value, (list, tuple)):
        return ",".join(_as_text(item) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _explain(model: type[BaseModel], problem: Any, where: str) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(([where] if where else []) + path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key `{key}`{nearest(path[-1], _fields_at(model, path[:-1]))}"
    if problem["type"] == "missing":
        return f"`{key}` is missing"
    message = problem["msg"].removeprefix("Value error, ")
    is_section = isinstance(problem["input"], (dict, BaseModel))  # whose message names the keys
    return (f"`{key}`: " if key else "") + message + ("" if is_section else f" (got {problem['input']!r})")


def _fields_at(model: type[BaseModel], path: list[str]) -> Iterable[str]:
    """Keys of the section at `path`, below nested sections and dictionaries of sections."""
    at: Any = model
    for part in path:
        if get_origin(at) is dict:
            at = get_args(at)[1]
            continue
        field = getattr(at, "model_fields", {}).get(part)
        at = field.annotation if field else None
        if get_origin(at) is UnionType:
            at = get_args(at)[0]  # of `Section | None`
    return getattr(at, "model_fields", [])


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean `x`?"`, or the list of known names, to end an error message with."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known: {', '.join(known)}" if known else ""
