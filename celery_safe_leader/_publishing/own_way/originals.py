"""Whether a function of another package is what that package's file holds.

Tools that trace or monitor put functions of their own into Celery's and kombu's classes, before
this package is imported or after, and make them look like those they replace: names,
``__wrapped__`` and ``isinstance`` tell nothing. The code in the module's file does.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType, MethodType
from typing import Any

__all__ = ["are_all_original", "is_code_of", "is_original"]


def is_original(holder: Any, name: str, kind: type) -> bool:
    """Return whether an attribute is a method of a class, as the file of its module holds it.

    Nothing of the holder is called.

    Args:
        holder: An object or a class, in which the attribute is looked up.
        name: Of the attribute.
        kind: The class that has to have defined it.
    """
    found = inspect.getattr_static(holder, name, None)
    return is_code_of(found, kind.__module__, f"{kind.__qualname__}.{name}")


def are_all_original(kind: type) -> bool:
    """Return whether all that a class defines with code is as the file of its module holds it.

    Args:
        kind: The class.
    """
    for value in vars(kind).values():
        functions = _functions(value)
        if not functions and (isinstance(value, type) or not callable(value)):
            continue
        # By its own name: some stand in a class under a second one.
        name = getattr(functions[0], "__qualname__", "") if functions else ""
        if not is_code_of(value, kind.__module__, name):
            return False
    return True


def is_code_of(found: Any, module: str, qualname: str) -> bool:
    """Return whether something runs the code that a module's file has under a name, and no other.

    Args:
        found: A function, method, property or what else may stand in a class.
        module: Name of the module.
        qualname: Within it.
    """
    functions = list(_functions(found))
    return bool(functions) and all(
        type(function) is FunctionType and function.__code__ in _in_file(module, qualname)
        for function in functions
    )


def _functions(found: Any) -> list[Any]:
    """Return the functions in a descriptor; nothing if it is none that is known."""
    if isinstance(found, property):
        return [each for each in (found.fget, found.fset, found.fdel) if each is not None]
    if type(found) in (classmethod, staticmethod, MethodType):
        return [found.__func__]
    if type(found) is FunctionType:
        return [found]
    inner = getattr(found, "func", None)  # cached properties
    return [inner] if inner is not None and hasattr(type(found), "__get__") else []


@cache
def _in_file(module: str, qualname: str) -> tuple[CodeType, ...]:
    """Return the code objects of that name; a property and its setter have one each."""
    codes = _module_code(module)
    for part in qualname.split("."):
        if part != "<locals>":
            codes = tuple(inner for code in codes for inner in _inner(code, part))
    return codes


@cache
def _module_code(module: str) -> tuple[CodeType, ...]:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    get_code = getattr(getattr(spec, "loader", None), "get_code", None)
    if get_code is None:
        return ()
    try:
        code = get_code(module)
    except (ImportError, OSError, SyntaxError, ValueError):
        return ()
    return (code,) if isinstance(code, CodeType) else ()


def _inner(code: CodeType, name: str) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and constant.co_name == name:
            yield constant
