"""Dataclasses from nested mappings, strictly; what differs between two.

What a dataclass does not know, or holds as another type, is an error that names
the value and the nearest name.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar("T")


class UserError(ValueError):
  """Something a user can mend; commands print it as one line and end.

  The message names the value, the limit and the remedy.
  """

  exit_code = 2


class ConfigError(UserError):
  """A setting or an input that cannot be used."""


def from_dict(cls: type[T], values: Any, path: str = "config") -> T:
  """Builds the dataclass `cls` from nested mappings, strictly.

  Raises:
    ConfigError: an unknown key (the nearest known one is named) or a value of
      another type than the field's.
  """
  hints = typing.get_type_hints(cls, include_extras=True)
  for key in values:
    check_name(cls, key, path)
  return cls(
    **{
      key: _value(hints[key], value, f"{path}.{key}")
      for key, value in dict(values).items()
    }
  )


def check_name(cls: type, name: str, path: str):
  """Refuses a name that no field of the dataclass has."""
  names = [f.name for f in dataclasses.fields(cls)]
  if name not in names:
    near = difflib.get_close_matches(name, names, 1, 0.0)
    raise ConfigError(
      f"{path}.{name} is not a setting; did you mean {path}.{near[0]}? "
      f"Settings of {path}: {', '.join(names)}."
    )


def _value(hint: Any, value: Any, path: str) -> Any:
  """Checks one value against its annotation and converts containers."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    kind, least = args
    if _value(kind, value, path) < least:
      raise ConfigError(f"{path} is {value}; it must be at least {least}.")
    return value
  if origin is Literal:
    if value not in args:
      known = ", ".join(map(repr, args))
      raise ConfigError(f"{path} is {value!r}; it must be one of {known}.")
    return value
  if dataclasses.is_dataclass(hint):
    if not hasattr(value, "keys"):
      raise ConfigError(f"{path} must be a group of settings, not {value!r}.")
    return from_dict(hint, value, path)
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      raise ConfigError(f"{path} must be a list, not {value!r}.")
    if len(args) == 2 and args[1] is Ellipsis:
      args = (args[0],) * len(value)
    elif len(args) != len(value):
      raise ConfigError(f"{path} must have {len(args)} values, not {value!r}.")
    return tuple(
      _value(a, v, f"{path}[{i}]")
      for i, (a, v) in enumerate(zip(args, value, strict=True))
    )
  if hint is float and type(value) is int:
    return float(value)
  if isinstance(hint, types.UnionType):
    raise TypeError(f"{path}: a setting has one type, not {hint}.")
  if type(value) is not hint:
    raise ConfigError(
      f"{path} must be {hint.__name__}, not {type(value).__name__} {value!r}."
    )
  return value


def differences(old: Any, new: Any, path: str = "config") -> list[str]:
  """Names every setting in which two configs of one class differ."""
  if not dataclasses.is_dataclass(old):
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
  lines = []
  for field in dataclasses.fields(old):
    name = field.name
    lines += differences(
      getattr(old, name), getattr(new, name), f"{path}.{name}"
    )
  return lines


def departures(config: Any) -> list[str]:
  """Names every setting that is not its class's default, with its value."""
  return differences(type(config)(), config, type(config).__name__)


def check_choice(name: str, choices: Iterable[str]):
  """Refuses a config file's argument that is none of its choices.

  Raises:
    ConfigError: names them.
  """
  choices = list(choices)
  if name not in choices:
    raise ConfigError(f"{name!r} is none of {', '.join(choices)}.")
