"""Prints what users and other releases rely on, as JSON.

    python tools/public_surface.py > tests/contract/public_surface.json

Public modules with their names and signatures, entry points, settings, commands, what is logged
where and how loudly, names of keys in Redis, the Lua, and the bytes of the ledger: read from the
package that this Python imports. ``tests/contract/test_public_surface.py`` compares it with the
record, which was made from the release that is to be kept compatible; make it again only to
change that release, never to let the test pass.

Private functions are found by their names, wherever they live, so that it reads old trees too.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import logging
import pkgutil
import re
import warnings
from collections.abc import Iterator
from dataclasses import astuple
from datetime import timedelta
from enum import Enum
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from celery import Celery
from celery.app.defaults import NAMESPACES
from celery.schedules import crontab, schedule, solar
from click.testing import CliRunner
from django.conf import settings

PACKAGE = "celery_safe_leader"
KNOWN_BASES = {PACKAGE, "builtins", "celery", "django_celery_beat", "redbeat"}
MARKS = {"follows_worker"}
"""How parts of the package know each other's classes: nothing that users rely on."""
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
COMPLAINING = {"_complain": "error"}
"""Methods that log what they are given, now and then, and the level."""


def load() -> dict[str, ModuleType]:
    """Import all modules of the package: name -> module."""
    import django

    settings.configure(
        INSTALLED_APPS=[
            *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages")),
            "django_celery_beat",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        USE_TZ=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        django.setup()
        root = importlib.import_module(PACKAGE)
        names = [found.name for found in pkgutil.walk_packages(root.__path__, f"{PACKAGE}.")]
        return {name: importlib.import_module(name) for name in (PACKAGE, *names)}


def is_public(name: str) -> bool:
    """Tell whether no part of a dotted name is private."""
    return not any(part.startswith("_") for part in name.split("."))


def signature(function: Any) -> str:
    """Show names, kinds and defaults of parameters, without annotations."""
    shown = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in shown.parameters.values()]
    text = str(shown.replace(parameters=parameters, return_annotation=shown.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def describe(value: Any) -> Any:
    """Describe one public name."""
    if isinstance(value, type):
        return {"bases": ancestors(value), "members": dict(members(value))}
    if isinstance(value, click.Command):
        return command(value)
    if inspect.isfunction(value):
        return f"def {signature(value)}"
    return repr(value) if isinstance(value, str | int | float | tuple) else type(value).__name__


def ancestors(kind: type) -> list[str]:
    """List the bases that users can name."""
    named = [base for base in kind.__mro__[1:-1] if is_public(base.__module__)]
    return [base.__name__ for base in named if base.__module__.split(".")[0] in KNOWN_BASES]


def members(kind: type) -> Iterator[tuple[str, str]]:
    """Describe constructor and public members that this package gives a class."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith(PACKAGE)]
    if any("__init__" in vars(base) for base in ours):
        yield "()", signature(inspect.getattr_static(kind, "__init__"))
    names = {name for base in ours for name in vars(base) if is_public(name)}
    for name in sorted(names - MARKS):
        raw = inspect.getattr_static(kind, name)
        if isinstance(raw, staticmethod | classmethod):
            raw = raw.__func__
        if inspect.isfunction(raw):
            yield name, f"def {signature(raw)}"
        elif isinstance(raw, str | int | float | bool | Enum):
            yield name, repr(raw.value if isinstance(raw, Enum) else raw)
        else:
            yield name, "property" if isinstance(raw, property) else type(raw).__name__


def command(value: click.Command) -> Any:
    """Describe a command: its options, or its commands."""
    if isinstance(value, click.Group):
        context = click.Context(value)
        named = ((name, value.get_command(context, name)) for name in value.list_commands(context))
        return {name: command(found) for name, found in named if found is not None}
    return sorted(f"{' '.join(p.opts)} = {p.default!r}" for p in value.params)


def exits() -> dict[str, int]:
    """Run commands that need no server, and note how they end."""
    leader = importlib.import_module(f"{PACKAGE}.cli").leader
    found = {}
    apps = {
        "no server": {"broker_url": "redis://127.0.0.1:1/0"},
        "no Redis": {"broker_url": "amqp://127.0.0.1:1//"},
        "wrong ttl": {"broker_url": "redis://127.0.0.1:1/0", "leader_ttl": -1},
    }
    for what, conf in apps.items():
        app = Celery("shop", set_as_current=False)
        app.conf.update(conf)
        context = type("Context", (), {"app": app})()
        for words in (["status"], ["status", "--workers"], ["acl"], ["status", "--no-such"]):
            done = CliRunner().invoke(leader, words, obj=context)
            found[f"{' '.join(words)}, {what}"] = done.exit_code
    return found


def messages(modules: dict[str, ModuleType]) -> Iterator[list[str]]:
    """List what is logged: logger, level, text.

    The logger is ``?`` where it is an attribute, the text is empty where it is put together.
    """
    for module in modules.values():
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in LEVELS | COMPLAINING.keys():
                continue
            owner = node.func.value
            logger = getattr(module, owner.id, None) if isinstance(owner, ast.Name) else None
            if node.func.attr in COMPLAINING:
                logger = getattr(module, "logger", None)
            if isinstance(logger, logging.Logger):
                name = logger.name
            elif isinstance(owner, ast.Attribute) and "log" in owner.attr.lower():
                name = "?"
            else:
                continue
            constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
            texts = [value for value in constants if isinstance(value, str)]
            level = COMPLAINING.get(node.func.attr, node.func.attr)
            yield [name, level, texts[0] if texts else ""]


def lua() -> dict[str, dict[str, Any]]:
    """Describe each script: its code without comments, and the commands in it, in order."""
    found = {}
    for path in sorted(Path(str(files(PACKAGE))).rglob("*.lua"), key=lambda path: path.name):
        bare = re.sub(r"--[^\n]*", "", path.read_text(encoding="utf-8"))
        code = "\n".join(line.strip() for line in bare.splitlines() if line.strip())
        found[path.stem] = {
            "sha256": hashlib.sha256(code.encode()).hexdigest(),
            "commands": re.findall(r"redis\.p?call\(\s*['\"](\w+)['\"]", code),
        }
    return found


class Finder:
    """Finds a private name, whichever module defines it."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        for module in self._modules.values():
            found = vars(module).get(name)
            if found is not None and not isinstance(found, ModuleType):
                return found
        raise AttributeError(f"no module of {PACKAGE} has {name}")


def keys(find: Finder) -> dict[str, str]:
    """Name all keys in Redis."""
    found = {}
    for role in ("", "beat", "worker"):
        for prefix in ("", "app1."):
            of_election = find.ElectionKeys("shop", role, prefix)
            for part in ("election", "lease", "history", "wake", "witness"):
                found[f"{part}, role {role!r}, prefix {prefix!r}"] = getattr(of_election, part)
            if role == "worker":
                found[f"sign, prefix {prefix!r}"] = find.sign_key(of_election)
    for prefix in ("", "app1."):
        of_ledger = find.LedgerKeys("shop", prefix)
        for part in ("runs", "pending", "unknown"):
            found[f"{part}, prefix {prefix!r}"] = getattr(of_ledger, part)
        for part in ("accepted", "again"):
            found[f"{part}, prefix {prefix!r}"] = getattr(of_ledger, part)("an-occurrence")
    return found


RUNS = (b"1767225600000000 3 1767225000000000 abc", b"-5 0 0 f p")
CLAIMS = (b"1767225600000000 1767225540000000 1764000000123 id-1 abc", b"1 1 1 i f")
SENTINELS = (b"1 g 7 whole beat", b"1 g 7 partial worker", b"")
OF_A_SENTINEL = ("generation", "step", "partial", "owner")
BAD = (
    b"",
    b"1 2",
    b"1 2 x f",
    b"9007199254740992 0 0 f",
    b"1 " + b"9" * 21 + b" 0 f",
    b"\xff 1 1 f",
)
ENTRIES = ("nightly", "grüße 你好", "\ud800", "")


def ledger(find: Finder) -> dict[str, Any]:
    """Read and write samples of what is in the ledger."""

    def read(decode: Any, *given: Any) -> Any:
        try:
            value = decode(*given)
        except ValueError as error:
            return type(error).__name__
        return None if value is None else [str(part) for part in astuple(value)]

    def claim(raw: bytes) -> Any:
        # What every release finds in it, whatever else it may hold.
        found = read(find.decode_claim, "e", raw)
        return found[:6] if isinstance(found, list) else found

    return {
        "format": find.FORMAT,
        "sentinel field": find.SENTINEL.hex(),
        "entries": {ascii(entry): find.encode_entry(entry).hex() for entry in ENTRIES},
        "runs": {str(raw): read(find.decode_run, raw) for raw in (*RUNS, *BAD)},
        "runs again": [str(find.encode_run(find.decode_run(raw))) for raw in RUNS],
        "claims": {str(raw): claim(raw) for raw in (*CLAIMS, *BAD)},
        "claims again": [str(find.encode_claim(find.decode_claim("e", raw))) for raw in CLAIMS],
        "sentinels": {str(raw): sentinel(find, raw) for raw in SENTINELS},
        "ids": [
            find.occurrence_id("shop", "nightly", 1_767_225_600_000_000),
            find.successor_id("shop", "nightly", 1_767_225_600_000_000),
            find.occurrence_id("grüße", "", 0),
        ],
        "fingerprints": dict(fingerprints(find)),
    }


def sentinel(find: Finder, raw: bytes) -> list[str] | None:
    """Read a sentinel: what every release finds in it, whatever else it may hold."""
    read = find.decode_sentinel(raw)
    return read and [str(getattr(read, name)) for name in OF_A_SENTINEL]


def fingerprints(find: Finder) -> Iterator[tuple[str, str]]:
    """Identify schedules of each kind."""
    app = Celery("almanac", set_as_current=False)
    app.conf.timezone = "Europe/Berlin"
    for given in (
        schedule(1.0, app=app),
        schedule(timedelta(days=1), app=app),
        schedule(timedelta(hours=1), relative=True, app=app),
        crontab(minute="*/5", hour="3", app=app),
        crontab(day_of_week="mon-fri", app=app),
        solar("sunset", 52.5, 13.4, app=app),
    ):
        yield repr(given), find.rule_for(given).fingerprint


def headers(find: Finder) -> list[str]:
    """Name the headers of a periodic message."""
    return [find.ELECTION, find.OCCURRENCE, find.PUBLICATION, find.TOKEN, find.COVERS]


def defaults(modules: dict[str, ModuleType]) -> dict[str, str]:
    """Return all settings of an app that has set none."""
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    read = modules[f"{PACKAGE}.conf"].read(app)
    return {name: repr(getattr(read, name)) for name in sorted(read.__slots__)}


def surface() -> dict[str, Any]:
    """Read everything."""
    modules = load()
    find = Finder(modules)
    public = {name: module for name, module in modules.items() if is_public(name)}
    return {
        "modules": {
            name: {each: describe(getattr(module, each)) for each in getattr(module, "__all__", [])}
            for name, module in sorted(public.items())
        },
        "entry points": sorted(
            f"{point.group}: {point.name} = {point.value}"
            for point in distribution("celery-safe-leader").entry_points
        ),
        "settings": {name: o.type for name, o in sorted(NAMESPACES["leader"].items())},
        "defaults": defaults(modules),
        "exits": exits(),
        "messages": sorted(messages(modules)),
        "headers": headers(find),
        "keys": keys(find),
        "lua": lua(),
        "ledger": ledger(find),
    }


if __name__ == "__main__":
    print(json.dumps(surface(), indent=1, sort_keys=True, ensure_ascii=False))
