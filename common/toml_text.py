"""JSON values written as TOML, for the files that a person may read and edit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def to_toml(values: Mapping[str, Any]) -> str:
    """JSON values as TOML: scalars and lists first, then every mapping as a table of its own."""
    return "\n".join(_toml_lines(values, ()))


def _toml_lines(values: Mapping[str, Any], table: tuple[str, ...]) -> list[str]:
    lines = [
        f"{_toml_key(key)} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, Mapping)
    ]
    for key, value in values.items():
        if isinstance(value, Mapping):
            name = (*table, _toml_key(key))
            lines += ["", f"[{'.'.join(name)}]", *_toml_lines(value, name)]
    return lines if table else [*lines, ""]


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    """JSON and TOML write scalars alike, but for one control character that JSON leaves bare."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml_value(one)}" for key, one in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
