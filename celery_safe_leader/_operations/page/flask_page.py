"""The page as an application of Flask: the one module that knows Flask.

It only reads, unless it is given a token: then whoever sends that in ``X-Leader-Token`` may act. A
page of another site cannot: it can neither know the token nor send such a header.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from celery_safe_leader._operations.page.entry_pages import PageQuery
from celery_safe_leader._operations.page.page_actions import ACTIONS, act
from celery_safe_leader._operations.page.page_view import PageReader, problem_of
from celery_safe_leader._operations.target import Target
from celery_safe_leader._runtime.service.http_host import names_this_host
from celery_safe_leader.errors import StoreError

__all__ = ["make_page"]

_PACKAGE = Path(__file__).parents[2]
_HEADER = "X-Leader-Token"
_MOST_BYTES = 16_384
"""Of a request's body."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def make_page(target: Target, *, token: str = "", hosts: Collection[str] = ()) -> Flask:
    """Return an application of WSGI that shows a key. It may be called by several threads.

    Args:
        target: Which key.
        token: What one has to send to act; empty to let nobody act.
        hosts: Names by which it may be asked for, besides those of this host.
    """
    app = Flask(
        __name__,
        static_url_path="/static",
        static_folder=str(_PACKAGE / "static" / "celery_safe_leader"),
        template_folder=str(_PACKAGE / "templates" / "celery_safe_leader" / "page"),
    )
    reader = PageReader(target)
    names = {host.lower().rstrip(".") for host in hosts}

    @app.before_request
    def check() -> tuple[str, int] | None:
        request.max_content_length = _MOST_BYTES
        if not names_this_host([request.headers.get("Host", "")], names):
            return _problem("Bad request", "The header Host names another host.", 400)
        if request.method == "OPTIONS":  # which Flask would answer by itself
            raise MethodNotAllowed(["GET"])
        return None

    @app.after_request
    def bolt(answer: Response) -> Response:
        answer.headers.update(_HEADERS)
        if request.endpoint != "static":
            answer.headers["Cache-Control"] = "no-store"
        return answer

    @app.get("/")
    def page() -> str:
        return _shown("page.html", reader, may_act=bool(token))

    @app.get("/parts")
    def parts() -> str:
        return _shown("answer.html", reader)

    @app.get("/actions/", defaults={"name": ""})
    @app.post("/actions/<name>")
    def action(name: str) -> tuple[Response, int]:
        refusal = _refusal(token)
        if refusal is not None:
            return refusal
        if name not in ACTIONS:
            return _said("There is no such action.", HTTPStatus.NOT_FOUND)
        words = request.get_json(silent=True)
        if not (isinstance(words, dict) and all(isinstance(each, str) for each in words.values())):
            return _said("What was sent is not an object of strings.", HTTPStatus.BAD_REQUEST)
        answer = act(target, name, words, words.get("by", ""))
        reader.forget()
        if answer.is_done:
            return _said(answer.text, HTTPStatus.OK)
        is_unknown = answer.is_unknown
        return _said(
            answer.text, HTTPStatus.SERVICE_UNAVAILABLE if is_unknown else HTTPStatus.CONFLICT
        )

    @app.errorhandler(StoreError)
    def no_redis(error: StoreError) -> tuple[str, int]:
        problem = problem_of(target, error)
        return _problem(problem.title, problem.text, HTTPStatus.SERVICE_UNAVAILABLE)

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Any:
        # Without a word of what was asked.
        code = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
        phrase = HTTPStatus(code).phrase
        answer = app.make_response(_problem(phrase, f"{phrase}.", code))
        allowed = getattr(error, "valid_methods", None)
        if allowed:
            answer.headers["Allow"] = ", ".join(sorted(allowed))
        return answer

    return app


def _shown(template: str, reader: PageReader, **more: Any) -> str:
    view = reader.read(PageQuery.of(request.args))
    return render_template(template, view=view, **more)


def _problem(title: str, text: str, code: int) -> tuple[str, int]:
    return render_template("problem.html", title=title, text=text), code


def _refusal(token: str) -> tuple[Response, int] | None:
    """Return why a request may not act; ``None`` if it may."""
    if not token:
        text = "This page only shows. Start it with --allow-actions to act."
        return _said(text, HTTPStatus.FORBIDDEN)
    given = request.headers.get(_HEADER, "")
    if not given:
        answer, code = _said(f"A token is needed, in {_HEADER}.", HTTPStatus.UNAUTHORIZED)
        answer.headers["WWW-Authenticate"] = f'LeaderToken header="{_HEADER}"'
        return answer, code
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
        return _said("The token is wrong.", HTTPStatus.FORBIDDEN)
    return None


def _said(message: str, code: HTTPStatus) -> tuple[Response, int]:
    fields: Mapping[str, str] = {"message": message}
    return jsonify(fields), code
