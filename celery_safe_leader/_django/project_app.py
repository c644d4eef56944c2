"""Which Celery app a Django project means."""

from __future__ import annotations

from celery import Celery

# Private, and read in 5.4.0 to 5.7.0: `current_app` is that of a thread, and the threads of a web
# server have none.
from celery._state import _get_active_apps
from django.conf import settings
from django.utils.module_loading import import_string

__all__ = ["SETTING", "NoAppError", "project_app"]

SETTING = "SAFE_LEADER_APP"
"""Of Django: the dotted path of the app. Needed where a process has several."""
_FALLBACK = "default"
"""Name of the app that Celery makes where none is there."""


class NoAppError(Exception):
    """It is not known which app is meant. Its text is for people.

    Args:
        text: What is wrong, and what to do.
        is_wrong: Whether a setting names an app that cannot be used. If false, none is named, and
            there is no app or more than one.
    """

    def __init__(self, text: str, is_wrong: bool = False) -> None:
        super().__init__(text)
        self.is_wrong = is_wrong


def project_app() -> Celery:
    """Return the app that the setting names, or else the only one of this process.

    Raises:
        NoAppError: There is none, or there are several, or the setting is wrong.
    """
    named = getattr(settings, SETTING, None)
    if named is not None:
        return _named(named)
    # One that was replaced lives on until it is collected; of one name, all have its settings.
    apps = {each.main: each for each in list(_get_active_apps()) if each.main not in _NAMELESS}
    if len(apps) == 1:
        return next(iter(apps.values()))
    if not apps:
        raise NoAppError(
            "no Celery app is loaded in this process; import it in the project's __init__.py, as "
            f"Celery's documentation says, or set {SETTING} to its path, such as 'proj.celery.app'"
        )
    names = ", ".join(sorted(map(repr, apps)))
    raise NoAppError(
        f"this process has several Celery apps ({names:.200}); set {SETTING} to the path of the "
        "one that is meant, such as 'proj.celery.app'"
    )


def _named(path: object) -> Celery:
    allowed = "it must be the path of a Celery app, such as 'proj.celery.app'"
    if not isinstance(path, str):
        raise NoAppError(f"{SETTING} is {path!r:.80}; {allowed}", is_wrong=True)
    try:
        found = import_string(path)
    except ImportError as exc:
        raise NoAppError(f"{SETTING} is {path!r:.200}: {exc}; {allowed}", is_wrong=True) from exc
    if not isinstance(found, Celery):
        kind = type(found).__name__
        raise NoAppError(f"{SETTING} is {path!r:.200}, which is a {kind}; {allowed}", is_wrong=True)
    return found


_NAMELESS = (None, "", "__main__", _FALLBACK)
