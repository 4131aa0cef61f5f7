"""Options: dataclass fields that carry their default, bounds, choices and help.

A config dataclass may hold others as *groups*, by :func:`group`; an option of a group is spelled
``group.option``.
"""

import dataclasses
import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

MAX_SEED = 2**63 - 1


class ConfigError(ValueError):
    """A setting the user can mend: the message says which, its value, and what to do."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def shown(value: object) -> str:
    """A value as a message quotes it: whatever a file holds, no longer than a few lines."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python spells out no number of thousands of digits
        return f"a huge {type(value).__name__}"


def check_text(name: str, value: object) -> None:
    """Refuse what is no text that a file or a path can hold.

    Raises:
        ConfigError: not a text, or one with a NUL or half a surrogate pair in it.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {shown(value)}: expected text")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ConfigError(f"{name} = {shown(value)} holds a character that no file can hold")


def option(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field that carries its own bounds, choices and help text."""
    metadata = {"help": help, "min": min, "max": max, "step": step, "choices": choices}
    return field(default=default, metadata=metadata)


def group(kind: type) -> Any:
    """A dataclass field that holds options of its own, all at their defaults unless given."""
    return field(default_factory=kind)


def option_fields(kind: type) -> Iterator[tuple[str, dataclasses.Field]]:
    """Every option by its full name, those of groups included, in field order."""
    for f in dataclasses.fields(kind):
        if f.metadata:
            yield f.name, f
        elif _is_group(f):
            for name, inner in option_fields(f.default_factory):
                yield f"{f.name}.{name}", inner


def flat(config: Any) -> dict[str, Any]:
    """Full name → value of every option."""
    values = {}
    for name, _ in option_fields(type(config)):
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        values[name] = value
    return values


def _is_group(f: dataclasses.Field) -> bool:
    return dataclasses.is_dataclass(f.default_factory)


def check_options(config: Any) -> None:
    """Refuse values of the wrong type, out of bounds or not among the choices.

    Raises:
        ConfigError: names the option, its value and what is allowed.
    """
    for f in dataclasses.fields(config):
        if _is_group(f) and not isinstance(getattr(config, f.name), f.default_factory):
            raise ConfigError(f"{f.name} = {shown(getattr(config, f.name))}: expected its options")
        if not f.metadata:
            continue
        value, kind = getattr(config, f.name), type(f.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 2**1000 else math.inf
            object.__setattr__(config, f.name, value)
        if type(value) is not kind:
            raise ConfigError(f"{f.name} = {shown(value)}: expected {kind.__name__}")
        if kind is str:
            check_text(f.name, value)
        choices, low, high = (f.metadata[key] for key in ("choices", "min", "max"))
        if choices and value not in choices:
            raise ConfigError(f"{f.name} = {shown(value)}: choose one of {', '.join(choices)}")
        if kind is float and not math.isfinite(value):
            raise ConfigError(f"{f.name} = {value!r}: expected a finite number")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ConfigError(f"{f.name} = {shown(value)}: allowed is {low} to {high}")


def from_mapping(kind: type, values: Mapping[str, Any]) -> Any:
    """Build a config dataclass from JSON values; lists become tuples, objects groups.

    Raises:
        ConfigError: an unknown or a missing key, by name.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{kind.__name__}: expected an object, got {shown(values)}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"{kind.__name__} has no option {shown(', '.join(unknown))}")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := sorted(set(required) - set(values)):
        raise ConfigError(f"{kind.__name__} needs {', '.join(missing)}")
    return kind(**{name: _from_json(fields[name], value) for name, value in values.items()})


def _from_json(f: dataclasses.Field, value: Any) -> Any:
    if _is_group(f) and isinstance(value, Mapping):
        return from_mapping(f.default_factory, value)
    return tuple(value) if isinstance(value, list) else value
