"""``leader web``: serve the page."""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
from pathlib import Path

import click

from celery_safe_leader._operations.output import plain
from celery_safe_leader._operations.target import Target, WrongSettingError, pass_target

__all__ = ["TOKEN_VARIABLE", "web"]

TOKEN_VARIABLE = "CELERY_SAFE_LEADER_WEB_TOKEN"  # noqa: S105
"""Environment variable in which the token may be."""
_TOKEN = re.compile(r"[!-~]{16,512}")
_LOOPBACK = ("127.", "::1", "localhost")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8808,
    show_default=True,
    help="Port to listen at; 0 for one that is free.",
)
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A name by which the page may be asked for, such as that of a proxy; may be repeated.",
)
@click.option("--allow-actions", is_flag=True, help="Let the page pause, resume and resign.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Holds the token that one needs to act. Without it {TOKEN_VARIABLE} is read; without "
    "that, one is made and printed once.",
)
@pass_target
def web(
    target: Target, host: str, port: int, hosts: tuple[str, ...], allow_actions: bool,
    token_file: Path | None,
) -> int:  # fmt: skip
    """Serve a page that shows who leads, candidates, entries and history, live.

    It has no login: whoever reaches it may look. With --allow-actions, who has the token may pause,
    resume, and ask a leader to resign; the Redis user then needs the rights of an operator, else
    those of a viewer. It needs the extra [web].

    Ends with 0 on Ctrl-C and SIGTERM, and with 2 if it cannot listen or a setting is wrong.
    """
    try:
        from celery_safe_leader._operations.page.flask_page import make_page
        from celery_safe_leader._operations.page.page_server import listen, serve
    except ModuleNotFoundError as exc:
        raise WrongSettingError(
            f"the page needs {exc.name}, which is not installed: "
            'pip install ".[web]" in a checkout of celery-safe-leader'
        ) from exc
    token, is_new = _token(token_file) if allow_actions else ("", False)
    if token_file is not None and not allow_actions:
        raise WrongSettingError("--token-file is of no use without --allow-actions")
    try:
        listening = listen(host, port)
    except OSError as exc:
        raise WrongSettingError(f"--host {plain(host)} --port {port}: {exc.strerror}") from exc
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _say(target, host, listening.getsockname()[1], token if is_new else "")
        serve(make_page(target, token=token, hosts=hosts), listening)
    except KeyboardInterrupt:
        listening.close()
    return 0


def _token(file: Path | None) -> tuple[str, bool]:
    """Return the token, and whether it was made just now.

    Raises:
        WrongSettingError: It cannot be read, or is not one.
    """
    if file is not None:
        try:
            token, where = (
                file.read_text(encoding="ascii", errors="replace").strip(),
                "--token-file",
            )
        except OSError as exc:
            raise WrongSettingError(f"--token-file {plain(str(file))}: {exc.strerror}") from exc
    elif TOKEN_VARIABLE in os.environ:
        token, where = os.environ[TOKEN_VARIABLE].strip(), TOKEN_VARIABLE
    else:
        return secrets.token_urlsafe(24), True
    if not _TOKEN.fullmatch(token):
        raise WrongSettingError(
            f"{where} holds no token: 16 to 512 printable ASCII characters without blanks"
        )
    return token, False


def _say(target: Target, host: str, port: int, token: str) -> None:
    """Say on stdout where the page is."""
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"The page of {plain(target.key)} at {plain(target.server)}: http://{shown}:{port}/")
    if not host.startswith(_LOOPBACK):
        click.echo("It has no login: whoever reaches this address may look.")
    if token:
        click.echo(f"To act, one needs this token, which is not shown again: {token}")
    sys.stdout.flush()
