"""Writes `crates/python/python/hetra/__init__.pyi`: the types of what `import hetra` gives.

Names of the package come from tables, which no type checker reads; this asks the package itself.
`crates/python/tests/test_stubs.py` fails where the file is not what this would write.

    PYTHONPATH=FOLDER_WITH_HETRA python tools/stubs.py
"""

from __future__ import annotations

import inspect
import pathlib
import re
import types

import numpy as np

FILE = pathlib.Path(__file__).parents[1] / "crates/python/python/hetra/__init__.pyi"

HEAD = '''"""Types of the package. Written by tools/stubs.py: do not edit."""

import builtins
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import numpy as np
'''


def annotation(text: str) -> str:
    """An annotation where names of dtypes hide those of Python's types."""
    text = re.sub(r"(?<![\w.])bool\b", "builtins.bool", text.strip("'\""))
    # Arrays' functions take names; `_Info` has no public one.
    return text.replace("_Info", "Any").replace("Device", "str | device")


def default(value: object) -> str:
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else "..."


def signature(function: object) -> str:
    """`(x: Any, /) -> Array`, as a stub has it."""
    known = inspect.signature(function)  # type: ignore[arg-type]
    parts: list[str] = []
    kinds = [one.kind for one in known.parameters.values()]
    for at, one in enumerate(known.parameters.values()):
        star = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        if one.kind == one.KEYWORD_ONLY and not {one.KEYWORD_ONLY, one.VAR_POSITIONAL} & set(kinds[:at]):
            parts.append("*")
        text = star + one.name
        if one.annotation is not one.empty:
            text += f": {annotation(str(one.annotation))}"
        if one.default is not one.empty:
            text += f" = {default(one.default)}"
        parts.append(text)
        if one.kind == one.POSITIONAL_ONLY and (at + 1 == len(kinds) or kinds[at + 1] != one.kind):
            parts.append("/")
    result = known.return_annotation
    back = "Any" if result is known.empty else annotation(str(result))
    return f"({', '.join(parts)}) -> {back}"


def of_class(name: str, of: type) -> list[str]:
    lines = [f"class {name}:"]
    for own, method in vars(of).items():
        if inspect.isfunction(method):
            lines.append(f"    def {own}{signature(method)}: ...")
    return lines


def stubs(package: types.ModuleType) -> str:
    """The text of the file."""
    imports, others = [], []
    names = {name for name in dir(package) if not name.startswith("_")} | set(package.__all__)
    for name in sorted(names - {"ALL", "annotations", "Any"}):
        one = getattr(package, name)
        module = getattr(one, "__module__", None)
        if one is getattr(package._core, getattr(one, "__name__", ""), None):
            # Compiled classes call the package their module.
            module = package._core.__name__
        if isinstance(one, types.ModuleType):
            if one.__name__.startswith(package.__name__):
                imports.append(f"from . import {name} as {name}")
        elif isinstance(one, type):
            if module not in (package.__name__, "builtins"):
                inside = (module or "").removeprefix(package.__name__)
                imports.append(f"from {inside} import {one.__name__} as {name}")
            elif name == one.__name__:
                others += of_class(name, one)
            else:
                others.append(f"{name} = {one.__name__}")
        elif inspect.isfunction(one):
            others.append(f"def {name}{signature(one)}: ...")
        elif isinstance(one, np.dtype):
            others.append(f"{name}: np.dtype[Any]")
        elif callable(one):
            others.append(f"{name}: Callable[..., Any]")
        else:
            others.append(f"{name}: {type(one).__name__ if one is not None else 'None'}")
    # Results of their own kinds, which only signatures name.
    for name, one in sorted(vars(package._functions).items()):
        if isinstance(one, type) and one.__module__ == package._functions.__name__:
            imports.append(f"from ._functions import {name} as {name}")
    # An alias stands behind what it names.
    aliases = [line for line in others if re.fullmatch(r"\w+ = \w+", line)]
    others = [line for line in others if line not in aliases]
    return "\n".join([HEAD, *sorted(imports), "", *others, *aliases, ""])


if __name__ == "__main__":
    import hetra

    FILE.write_text(stubs(hetra))
