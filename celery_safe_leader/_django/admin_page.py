"""The page of Django's admin: what is known of a key, and buttons for those who may use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

import click
from celery import Celery
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path

from celery_safe_leader._app.app_target import app_target
from celery_safe_leader._django.project_app import NoAppError, project_app
from celery_safe_leader._operations.page.entry_pages import PageQuery
from celery_safe_leader._operations.page.page_actions import ACTIONS, act
from celery_safe_leader._operations.page.page_view import PageReader, PageView, problem_of
from celery_safe_leader.errors import SafeLeaderError, StoreError
from celery_safe_leader.models import Leader

__all__ = ["ElectionAdmin", "register_page"]

_TEMPLATES = "admin/celery_safe_leader"
_readers: WeakKeyDictionary[Celery, PageReader] = WeakKeyDictionary()
"""One for each app: it looks at Redis once a second, however many browsers ask."""


@dataclass(frozen=True)
class _Trouble:
    """Why there is nothing to show."""

    title: str
    text: str


class ElectionAdmin(admin.ModelAdmin):  # type: ignore[type-arg, unused-ignore]
    """One page at the place of a model's list.

    Whoever may `view_leader` sees it, and whoever may `act_leader` as well has its buttons.
    Nothing can be added, changed or deleted.
    """

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return false: there are no rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return false: there are no rows."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return false: there are no rows."""
        return False

    def has_act_permission(self, request: HttpRequest) -> bool:
        """Return whether a user may pause, resume and let a leader resign."""
        user: Any = request.user
        return bool(user.has_perm(f"{self.opts.app_label}.act_leader"))

    def get_urls(self) -> list[Any]:
        """Return the page alone."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_changelist"
        return [path("", self.admin_site.admin_view(self.election_view), name=name)]

    def election_view(self, request: HttpRequest) -> HttpResponse:
        """Show the page; with POST, do something first."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._act(request)
        view, trouble = _read(request.GET)
        context = {
            **self.admin_site.each_context(request),
            "title": self.opts.verbose_name,
            "opts": self.opts,
            "view": view,
            "trouble": trouble,
            "may_act": view is not None and self.has_act_permission(request),
        }
        name = "live.html" if "live" in request.GET else "election.html"
        status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
        return TemplateResponse(request, f"{_TEMPLATES}/{name}", context, status=status)

    def _act(self, request: HttpRequest) -> HttpResponse:
        if not self.has_act_permission(request):
            raise PermissionDenied
        words = {name: str(value) for name, value in request.POST.items()}
        user: Any = request.user
        done, text = _do(words, f"{user.get_username()} (Django admin)")
        self.message_user(request, text, messages.SUCCESS if done else messages.ERROR)
        return HttpResponseRedirect(request.path)


def register_page() -> None:
    """Let the default site of Django's admin have the page. May be called again."""
    if not admin.site.is_registered(Leader):
        admin.site.register(Leader, ElectionAdmin)


def _reader() -> PageReader:
    """Return what reads the key of the project's app.

    Raises:
        NoAppError: It is not known which app.
        WrongSettingError: Its settings are wrong.
    """
    app = project_app()
    found = _readers.get(app)
    if found is None:
        found = _readers[app] = PageReader(app_target(app))
    return found


def _read(words: Mapping[str, str]) -> tuple[PageView | None, _Trouble | None]:
    """Return what is to be shown, or why there is nothing."""
    try:
        reader = _reader()
        try:
            return reader.read(PageQuery.of(words)), None
        except StoreError as exc:
            problem = problem_of(reader.target, exc)
            return None, _Trouble(problem.title, problem.text)
    except NoAppError as exc:
        return None, _Trouble("Which Celery app?", str(exc))
    except click.ClickException as exc:
        return None, _Trouble("A setting is wrong", exc.message)
    except SafeLeaderError as exc:
        return None, _Trouble("Redis cannot be asked", str(exc))


def _do(words: Mapping[str, str], who: str) -> tuple[bool, str]:
    """Do what a form asks for; return whether it was done, and what is said of it."""
    name = words.get("action", "")
    if name not in ACTIONS:
        return False, f"action is {name!r:.40}; allowed are {', '.join(ACTIONS)}"
    try:
        reader = _reader()
        answer = act(reader.target, name, words, who)
    except NoAppError as exc:
        return False, str(exc)
    except click.ClickException as exc:
        return False, exc.message
    except SafeLeaderError as exc:
        return False, str(exc)
    reader.forget()
    return answer.is_done, answer.text
