"""The options of one entry on missed runs and expiry: ``options["leader"]``."""

from __future__ import annotations

from typing import Any

from celery_safe_leader._schedules.missed import Policy
from celery_safe_leader.errors import ConfigurationError

__all__ = ["EXPIRES_FROM", "UnknownOptionError", "check_entry_options"]

_OPTIONS = ("missed_runs", "max_lateness", "limit", "expires_from")
EXPIRES_FROM = ("publication", "due")
"""What a number of seconds in ``expires`` may count from."""


class UnknownOptionError(ConfigurationError):
    """An option that does not exist; ``allowed`` names those that do."""

    def __str__(self) -> str:
        return f"{self.setting}: unknown option; valid options are {self.allowed}"


def check_entry_options(name: str, options: Any) -> dict[str, Any]:
    """Return an entry's own ``options["leader"]``.

    Raises:
        ConfigurationError: An option is unknown or has a wrong value.
    """
    own = (options or {}).get("leader")
    if own is None:
        return {}
    where = f'options["leader"] of beat entry {name!r}'
    if not isinstance(own, dict):
        raise ConfigurationError(where, repr(own), f"a dict with any of {', '.join(_OPTIONS)}")
    for option, value in own.items():
        _check_option(f"{where}: {option}", option, value)
    return own


def _check_option(where: str, option: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if option == "missed_runs":
        policies = [policy.value for policy in Policy]
        if value not in policies:
            raise ConfigurationError(where, repr(value), "one of " + ", ".join(policies))
    elif option == "max_lateness":
        if not number or not 0 < value < float("inf"):
            raise ConfigurationError(where, repr(value), "a number of seconds above 0")
    elif option == "limit":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigurationError(where, repr(value), "a whole number, 1 or more")
    elif option == "expires_from":
        if value not in EXPIRES_FROM:
            raise ConfigurationError(where, repr(value), "'publication' or 'due'")
    else:
        raise UnknownOptionError(where, repr(value), ", ".join(_OPTIONS))
