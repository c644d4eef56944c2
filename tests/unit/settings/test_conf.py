"""Settings: defaults, spellings, and each bad input with its whole message."""

from __future__ import annotations

import logging
import pickle
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery
from celery.app import defaults
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import conf
from celery_safe_leader._clients import warn_of_other_servers
from celery_safe_leader._runtime.service.http_address import HttpAddress
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader.beat import LeaderScheduler
from celery_safe_leader.conf import LeaderSettings

PASSWORD = "Zq9Xv7"
BROKER = f"redis://:{PASSWORD}@h/1"
DJANGO = "CELERY"
SCHEMES = (
    "redis, valkey, rediss, valkeys, unix, redis+socket, sentinel, redis-sentinel, redis+cluster, "
    "rediss+cluster or redis-cluster, and then ://"
)
OR_IGNORE = ", or if it is not meant for celery-safe-leader, add it to leader_ignored_settings"
SETTINGS = (
    "leader_url, leader_options, leader_key, leader_ttl, leader_wait, leader_wait_replicas, "
    "leader_allow_long_ttl, leader_missed_runs, leader_expires_from, leader_dedup_window, "
    "leader_queue, leader_candidate, leader_drain_timeout, leader_http, leader_ignored_settings"
)


def make_app(
    values: dict[str, Any], namespace: str | None = None, main: str | None = "shop"
) -> Celery:
    """Create an app that reads its settings from a module-like object, as projects do."""
    app = Celery(main, set_as_current=False)
    options = {} if namespace is None else {"namespace": namespace}
    app.config_from_object(type("Settings", (), values), **options)
    return app


def read(values: dict[str, Any], namespace: str | None = None) -> LeaderSettings:
    broker = "broker_url" if namespace is None else f"{namespace}_BROKER_URL"
    return conf.read(make_app({broker: BROKER, **values}, namespace))


def refusal(app: Celery) -> str:
    """Return the message with which an app's settings are refused. It holds no password."""
    with pytest.raises(ImproperlyConfigured) as refused:
        conf.read(app)
    causes = (refused.value, refused.value.__cause__, refused.value.__context__)
    assert PASSWORD not in f"{causes} {causes!r}"
    return str(refused.value)


def test_defaults() -> None:
    settings = read({})
    assert settings == LeaderSettings(
        url=BROKER,
        options={},
        server="redis://h:6379/1",
        key="shop",
        ttl=10.0,
        wait=2.0,
        wait_replicas=0,
        allow_long_ttl=False,
        missed_runs="coalesce",
        expires_from="publication",
        dedup_window=7200.0,
        queue="leader.shop",
        candidate=True,
        drain_timeout=60.0,
        url_setting="broker_url",
        login_setting="broker_url",
        options_setting="leader_options",
    )
    assert (settings.candidate_options.ttl, settings.candidate_options.wait) == (10.0, 2.0)


VALUES: dict[str, Any] = {
    "url": "rediss://u:p@l:7/3",
    "options": {"ssl_ca_certs": "/ca"},
    "key": "shop-production",
    "ttl": 400,
    "wait": 900,
    "wait_replicas": 1,
    "allow_long_ttl": True,
    "missed_runs": "all",
    "dedup_window": timedelta(hours=3),
    "queue": "elected",
    "http": "127.0.0.1:9808",
}


@pytest.mark.parametrize("way", ["module", "namespace", "lower case under a namespace", "app"])
def test_every_setting_is_read_in_every_form(way: str) -> None:
    upper = {f"CELERY_LEADER_{name.upper()}": value for name, value in VALUES.items()}
    lower = {f"leader_{name}": value for name, value in VALUES.items()}
    if way == "app":
        app = make_app({"CELERY_BROKER_URL": BROKER}, DJANGO)
        app.conf.update(lower)
    else:
        app = make_app(upper if way == "namespace" else lower, None if way == "module" else DJANGO)
    settings = conf.read(app)
    assert settings.url == "rediss://u:p@l:7/3"
    assert settings.server == "rediss://l:7/3"
    assert settings.options == {"ssl_ca_certs": "/ca"}
    assert (settings.key, settings.queue) == ("shop-production", "elected")
    assert (settings.ttl, settings.wait, settings.wait_replicas) == (400.0, 900.0, 1)
    assert (settings.missed_runs, settings.dedup_window) == ("all", 10_800.0)
    assert settings.url_setting == ("CELERY_LEADER_URL" if way == "namespace" else "leader_url")
    assert settings.candidate_options.ttl == 400.0
    assert settings.http == HttpAddress("127.0.0.1", 9808)


def test_settings_hold_no_secret_in_their_repr_and_survive_pickling() -> None:
    settings = read({"leader_options": {"password": PASSWORD}})
    assert PASSWORD not in repr(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"leader_http": 9808},
            "leader_http is 9808 (a int); it must be 'HOST:PORT' such as '127.0.0.1:9808' or "
            "'[::1]:9808', or the path of a unix socket such as '/run/shop/%r-%p.sock', in which "
            "%h is the host, %r the role and %p the process id",
        ),
        ({"leader_ttl": 0}, "leader_ttl is 0; it must be a number of seconds from 0.05 to 86400"),
        ({"leader_ttl": -1}, "leader_ttl is -1; it must be a number of seconds from 0.05 to 86400"),
        (
            {"leader_ttl": float("nan")},
            "leader_ttl is nan; it must be a number of seconds from 0.05 to 86400",
        ),
        (
            {"leader_ttl": float("inf")},
            "leader_ttl is inf; it must be a number of seconds from 0.05 to 86400",
        ),
        (
            {"leader_ttl": 1500},
            "leader_ttl is 1500 s; it must be at most 300 s, since a longer one was most likely "
            "meant as milliseconds (then write 1.5); set leader_allow_long_ttl to True if you mean "
            "seconds",
        ),
        (
            {"leader_ttl": "10"},
            "leader_ttl is '10' (a str); it must be a number of seconds from 0.05 to 86400",
        ),
        (
            {"leader_ttl": True},
            "leader_ttl is True (a bool); it must be a number of seconds from 0.05 to 86400",
        ),
        (
            {"leader_ttl": Decimal(10)},
            "leader_ttl is Decimal('10') (a Decimal); it must be a number of seconds from 0.05 to "
            "86400",
        ),
        (
            {"leader_wait": 0},
            "leader_wait is 0; it must be a number of seconds from 0.001 to 86400",
        ),
        (
            {"leader_wait": float("nan")},
            "leader_wait is nan; it must be a number of seconds from 0.001 to 86400",
        ),
        ({"leader_wait_replicas": -1}, "leader_wait_replicas is -1; it must be at least 0"),
        ({"leader_wait_replicas": True}, "leader_wait_replicas is True; it must be a whole number"),
        (
            {"leader_allow_long_ttl": "no"},
            "leader_allow_long_ttl is 'no'; it must be True or False",
        ),
        (
            {"leader_missed_runs": "drop"},
            "leader_missed_runs is 'drop'; it must be 'coalesce', 'skip' or 'all'",
        ),
        (
            {"leader_dedup_window": "1h"},
            "leader_dedup_window is '1h' (a str); it must be a number of seconds",
        ),
        (
            {"leader_dedup_window": float("nan")},
            "leader_dedup_window is nan; it must be a number of seconds above 0",
        ),
        (
            {"leader_dedup_window": 60},
            "leader_dedup_window is 60 s; it must be at least 7200 s, twice the broker's "
            "visibility timeout: a message that it redelivers must still be known",
        ),
        ({"leader_key": " "}, "leader_key is ' '; it must be a non-empty string"),
        ({"leader_key": 3}, "leader_key is 3; it must be a non-empty string"),
        ({"leader_queue": ""}, "leader_queue is ''; it must be a string of 1 to 255 bytes"),
        ({"leader_candidate": 0}, "leader_candidate is 0; it must be True or False"),
        (
            {"leader_drain_timeout": -1},
            "leader_drain_timeout is -1; it must be a number of seconds, 0 or more",
        ),
        (
            {"leader_drain_timeout": 10**400},
            f"leader_drain_timeout is 1{'0' * 400}; it must be a number of seconds, 0 or more",
        ),
        (
            {"leader_dedup_window": 10**400},
            f"leader_dedup_window is 1{'0' * 400}; it must be a number of seconds above 0",
        ),
        (
            {"leader_drain_timeout": True},
            "leader_drain_timeout is True; it must be a number of seconds, 0 or more",
        ),
        ({"leader_options": PASSWORD}, "leader_options is of type str; it must be a dict"),
        (
            {"leader_options": {1: PASSWORD}},
            "leader_options is a dict with a name that is not a string; it must be a dict with "
            "strings as names",
        ),
        ({"leader_url": 6379}, "leader_url is of type int; it must be a URL string"),
        (
            {"leader_url": f"amqp://:{PASSWORD}@h"},
            f"leader_url is a URL with the scheme 'amqp'; it must be the URL of one Redis or "
            f"Valkey server, of Sentinels or of nodes of a cluster, starting with {SCHEMES}",
        ),
        (
            {"leader_url": f"redis://:{PASSWORD}@h/x"},
            "leader_url is redis://h/x; it must be a URL whose database is a whole number",
        ),
        (
            {"broker_url": f"redis://:{PASSWORD}@h/x"},
            "broker_url is redis://h/x; it must be a URL whose database is a whole number",
        ),
        (
            {"leader_expires_from": "now"},
            "leader_expires_from is 'now'; it must be 'publication' or 'due'",
        ),
        (
            {"leader_ignored_settings": [7]},
            "leader_ignored_settings is [7]; it must be a list of names of settings",
        ),
        (
            {"leader_tll": 3},
            "leader_tll is not a setting of celery-safe-leader; did you mean leader_ttl?",
        ),
        (
            {"leader_zzz": 3},
            f"leader_zzz is not a setting of celery-safe-leader; valid settings are {SETTINGS}",
        ),
        ({"LEADER_TTL": 3}, f"LEADER_TTL is not read by this app; write leader_ttl{OR_IGNORE}"),
        (
            {"leader_url": "redis://h/0?ssl_cert_reqs=none&ttl=3"},
            "leader_url is a URL with the parameter ttl; it must be one without it: set "
            "leader_ttl instead",
        ),
        (
            {"CELERY_LEADER_TTL": 3},
            f"CELERY_LEADER_TTL is not read by this app; write leader_ttl{OR_IGNORE}",
        ),
    ],
)
def test_bad_setting_is_refused(values: dict[str, Any], message: str) -> None:
    assert refusal(make_app({"broker_url": BROKER, **values})) == message


@pytest.mark.parametrize("names", [["LEADER_KEY", "leader_board"], ("LEADER_KEY", "leader_board")])
def test_settings_of_others_that_are_called_like_ours_can_be_named(names: Any) -> None:
    values = {"broker_url": BROKER, "LEADER_KEY": "flag", "leader_board": True, "leader_key": "k"}
    assert "LEADER_KEY is not read" in refusal(make_app({**values, "leader_board": None}))
    assert conf.read(make_app({**values, "leader_ignored_settings": names})).key == "k"


def test_a_time_zone_that_does_not_exist_ends_beat_before_anything_starts() -> None:
    app = make_app({"broker_url": BROKER, "timezone": "Mars/Olympus", "leader_key": "k"})
    with pytest.raises(ImproperlyConfigured) as caught:
        LeaderScheduler(app, lazy=True)
    assert str(caught.value).startswith(
        "timezone is 'Mars/Olympus', which cannot be used as a time "
    )
    app = make_app({"CELERY_BROKER_URL": BROKER, "CELERY_TIMEZONE": "Nowhere"}, DJANGO)
    with pytest.raises(ImproperlyConfigured, match=r"^CELERY_TIMEZONE is 'Nowhere'"):
        LeaderScheduler(app, lazy=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"CELERY_LEADER_TTL": 1500},
            "CELERY_LEADER_TTL is 1500 s; it must be at most 300 s, since a longer one was most "
            "likely meant as milliseconds (then write 1.5); set CELERY_LEADER_ALLOW_LONG_TTL to "
            "True if you mean seconds",
        ),
        (
            {"CELERY_LEADER_MISSED_RUNS": []},
            "CELERY_LEADER_MISSED_RUNS is []; it must be 'coalesce', 'skip' or 'all'",
        ),
        (
            {"CELERY_LEADER_WAIT_REPLICA": 1},
            "CELERY_LEADER_WAIT_REPLICA is not a setting of celery-safe-leader; did you mean "
            "CELERY_LEADER_WAIT_REPLICAS?",
        ),
        (
            {"leader_tttl": 1},
            "leader_tttl is not a setting of celery-safe-leader; did you mean leader_ttl?",
        ),
        (
            {"LEADER_TTL": 3},
            "LEADER_TTL is not read by this app; write CELERY_LEADER_TTL, or if it is not meant "
            "for celery-safe-leader, add it to CELERY_LEADER_IGNORED_SETTINGS",
        ),
        (
            {"leader_wait": 0},
            "leader_wait is 0; it must be a number of seconds from 0.001 to 86400",
        ),
        (
            {"CELERY_LEADER_URL": "sentinel://h:1?key=x"},
            "CELERY_LEADER_URL is a URL with the parameter key; it must be one without it: set "
            "CELERY_LEADER_KEY instead",
        ),
        (
            {"CELERY_BROKER_URL": f"redis://:{PASSWORD}@h/x"},
            "CELERY_BROKER_URL is redis://h/x; it must be a URL whose database is a whole number",
        ),
    ],
)
def test_bad_setting_is_refused_in_the_spelling_of_the_project(
    values: dict[str, Any], message: str
) -> None:
    assert refusal(make_app({"CELERY_BROKER_URL": BROKER, **values}, DJANGO)) == message


@pytest.mark.parametrize("namespace", [None, DJANGO])
def test_names_that_are_not_ours_are_left_alone(namespace: str | None) -> None:
    assert read({"LEADER_BOARD_SIZE": 3, "TEAM_LEADER_TTL": 1}, namespace).ttl == 10.0


def test_parameters_of_the_brokers_url_are_the_brokers() -> None:
    assert conf.read(make_app({"broker_url": f"{BROKER}?ttl=3", "leader_key": "k"})).ttl == 10.0


def test_old_upper_case_celery_settings_may_stand_beside_ours() -> None:
    app = make_app({"BROKER_URL": BROKER, "leader_ttl": 3})
    assert conf.read(app).ttl == 3.0


@pytest.mark.parametrize("wait", [3, 15.5, timedelta(seconds=3)])
def test_wait_may_be_longer_than_the_ttl(wait: Any) -> None:
    assert read({"leader_ttl": 1.5, "leader_wait": wait}).wait >= 3


@pytest.mark.parametrize("main", [None, "", "__main__"])
def test_app_without_a_name_must_name_its_election(main: str | None) -> None:
    assert refusal(make_app({"broker_url": BROKER}, main=main)) == (
        "leader_key is not set, and the app has no name to use instead; it must be a name that "
        "only the processes of this app and environment share, such as 'shop-production'"
    )
    assert conf.read(make_app({"broker_url": BROKER, "leader_key": "k"}, main=main)).key == "k"


@pytest.mark.parametrize(
    ("values", "server", "setting"),
    [
        ({"broker_url": BROKER, "leader_url": "unix:///r"}, "unix:///r?db=0", "leader_url"),
        ({"broker_url": f"amqp://a;{BROKER};redis://z"}, "redis://h:6379/1", "broker_url"),
        ({"broker_url": ["amqp://a", f"amqp://b;{BROKER}"]}, "redis://h:6379/1", "broker_url"),
        (
            {"broker_url": "amqp://a", "result_backend": "valkeys://b"},
            "rediss://b:6379/0",
            "result_backend",
        ),
        (
            {"broker_write_url": BROKER, "broker_url": "amqp://a"},
            "redis://h:6379/1",
            "broker_write_url",
        ),
        (
            {"broker_url": "redis://a", "broker_use_ssl": {"ssl_cert_reqs": "required"}},
            "rediss://a:6379/0",
            "broker_url",
        ),
    ],
)
def test_server_is_the_first_redis_that_is_configured(
    values: dict[str, Any], server: str, setting: str
) -> None:
    settings = conf.read(make_app(values))
    assert (settings.server, settings.url_setting) == (server, setting)
    assert settings.place == f"{server} ({setting})"


BACKEND = {"broker_url": "amqp://a", "result_backend": "redis://b"}
PROVIDER = "my.Provider"


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({"broker_url": BROKER}, "broker_url"),
        ({"broker_url": BROKER, "leader_url": "redis://u:p@l"}, "leader_url"),
        ({"broker_url": BROKER, "leader_options": {"client_name": "shop"}}, "broker_url"),
        ({"broker_url": BROKER, "leader_options": {"password": "hidden"}}, "leader_options"),
        ({"broker_url": BROKER, "leader_options": {"username": "shop"}}, "leader_options"),
        (BACKEND, "result_backend"),
        (
            {**BACKEND, "redis_backend_credential_provider": PROVIDER},
            "redis_backend_credential_provider",
        ),
        (
            {"broker_url": BROKER, "leader_options": {"credential_provider": PROVIDER}},
            "leader_options",
        ),
    ],
)
def test_the_setting_that_user_and_password_come_from_is_known(
    values: dict[str, Any], setting: str
) -> None:
    assert conf.read(make_app(values)).login_setting == setting
    namespaced = {f"CELERY_{name.upper()}": value for name, value in values.items()}
    assert conf.read(make_app(namespaced, DJANGO)).login_setting == f"CELERY_{setting.upper()}"


@pytest.mark.parametrize(
    ("values", "others"),
    [
        ({"broker_url": f"{BROKER};redis://u:{PASSWORD}@z"}, ("redis://z",)),
        ({"broker_url": [BROKER, "amqp://a", "redis://y"]}, ("redis://y",)),
        ({"broker_url": "sentinel://a:1;sentinel://b:1"}, ()),
        ({"broker_url": f"{BROKER};{BROKER}"}, ()),
        ({"broker_url": f"{BROKER};redis://z", "leader_url": BROKER}, ()),
        ({"broker_url": BROKER, "result_backend": "redis://z"}, ()),
    ],
)
def test_servers_that_the_election_does_not_ask_are_told(
    values: dict[str, Any], others: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    values.setdefault("broker_transport_options", {"master_name": "m"})
    settings = conf.read(make_app(values))
    assert settings.other_servers == others
    warn_of_other_servers(settings, logging.getLogger("celery_safe_leader"))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == bool(others)
    assert all(settings.server in line and others[0] in line for line in said)
    assert PASSWORD not in "".join(said)


def test_broker_from_the_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://from-env")
    assert conf.read(make_app({"broker_url": "amqp://a"})).server == "redis://from-env:6379/0"


@pytest.mark.parametrize(
    ("values", "broker", "backend"),
    [
        ({}, "not set", "not set"),
        ({"broker_url": f"amqp://u:{PASSWORD}@h//"}, "amqp://h//", "not set"),
        (
            {"broker_url": ["sqs://", f"kafka://:{PASSWORD}@s:1"]},
            "sqs://, kafka://s:1",
            "not set",
        ),
        (
            {"broker_url": "amqp://h", "result_backend": f"db+postgresql://u:{PASSWORD}@h/d"},
            "amqp://h",
            "db+postgresql",
        ),
        ({"broker_url": "amqp://h", "result_backend": "django-db"}, "amqp://h", "another kind"),
    ],
)
def test_no_redis_anywhere_is_refused(values: dict[str, Any], broker: str, backend: str) -> None:
    assert refusal(make_app(values)) == (
        f"leader_url is not set, and neither the broker ({broker}) nor the result backend "
        f"({backend}) is Redis or Valkey; set leader_url to the URL of one, starting with "
        f"{SCHEMES}"
    )


TLS = {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca", "keyfile": "/of-amqp"}


def test_brokers_tls_goes_with_the_brokers_url_only() -> None:
    expected = {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": "/ca"}
    assert read({"broker_use_ssl": TLS}).options == expected
    assert read({"broker_use_ssl": TLS, "leader_url": BROKER}).options == expected
    assert read({"broker_use_ssl": TLS, "leader_url": "redis://other"}).options == {}
    own = {"leader_options": {"ssl_ca_certs": "/mine"}}
    assert read({"broker_use_ssl": TLS, **own}).options == {**expected, "ssl_ca_certs": "/mine"}


def test_backends_tls_and_provider_go_with_the_backends_url_only() -> None:
    values = {
        "broker_url": "amqp://h",
        "broker_use_ssl": True,
        "result_backend": BROKER,
        "redis_backend_use_ssl": TLS,
        "redis_backend_credential_provider": "my.Provider",
    }
    assert conf.read(make_app(values)).options == {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": "/ca",
        "credential_provider": "my.Provider",
    }
    assert conf.read(make_app({**values, "leader_url": "redis://o"})).options == {}


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"broker_use_ssl": True}, "broker_use_ssl"),
        ({"broker_url": "amqp://h", "result_backend": BROKER, "redis_backend_use_ssl": 1}, ""),
    ],
)
def test_tls_that_celery_itself_would_not_use_is_refused(values: dict[str, Any], name: str) -> None:
    name = name or "redis_backend_use_ssl"
    text = refusal(make_app({"broker_url": BROKER, **values}))
    assert text.startswith(f"{name} is {values[name]!r}; for Redis it must be a dict, such as")


def test_brokers_key_prefix_goes_with_the_brokers_url_only() -> None:
    given = {"broker_transport_options": {"global_keyprefix": "shop"}}
    assert read(given).prefix == "shop"
    assert read({**given, "leader_url": BROKER}).prefix == "shop"
    assert read({**given, "leader_url": "redis://other"}).prefix == ""
    assert read({"broker_transport_options": {"global_keyprefix": None}}).prefix == ""


@pytest.mark.parametrize(("prefix", "all_keys"), [("shop", "shop_"), ("shop:", "shop:"), ("", "")])
def test_backends_key_prefix_is_written_as_celery_writes_it(prefix: str, all_keys: str) -> None:
    options = {"global_keyprefix": prefix}
    values = {"result_backend": BROKER, "result_backend_transport_options": options}
    assert conf.read(make_app({"broker_url": "amqp://h", **values})).prefix == all_keys


def test_key_prefix_that_is_no_text_is_refused() -> None:
    app = make_app({"broker_url": BROKER, "broker_transport_options": {"global_keyprefix": 7}})
    assert refusal(app) == (
        "global_keyprefix of broker_transport_options is 7; it must be a string"
    )


@pytest.mark.parametrize(
    ("values", "window"),
    [
        ({"broker_transport_options": {"visibility_timeout": 43_200}}, 86_400.0),
        ({"broker_transport_options": {"visibility_timeout": 60}}, 7200.0),
        (
            {"broker_transport_options": {"visibility_timeout": 60}, "leader_dedup_window": 120},
            120.0,
        ),
        ({"broker_url": "amqp://h", "leader_url": BROKER, "leader_dedup_window": 5}, 5.0),
        ({"broker_url": "sqs://", "leader_url": BROKER, "leader_dedup_window": 3600}, 3600.0),
    ],
)
def test_dedup_window_covers_two_visibility_timeouts(values: dict[str, Any], window: float) -> None:
    assert read(values).dedup_window == window


def test_queue_of_a_long_key_is_a_name_that_every_broker_takes() -> None:
    first, second = (read({"leader_key": "é" * 500 + end}).queue for end in "ab")
    assert first != second
    assert len(first.encode()) < 256
    assert first.startswith("leader.")


def test_command_line_sets_settings_and_registering_sets_no_default() -> None:
    conf.register_settings()
    conf.register_settings()
    app = make_app({"CELERY_BROKER_URL": BROKER, "CELERY_LEADER_WAIT": 9}, DJANGO)
    assert app.conf.get("leader_ttl") is None
    assert not app.conf.value_set_for("leader_ttl")
    app.config_from_cmdline(
        ["leader.ttl=3", "leader.wait_replicas=2", "leader.missed_runs=skip", "leader.key=k"]
    )
    settings = conf.read(app)
    assert (settings.ttl, settings.wait, settings.wait_replicas) == (3.0, 9.0, 2)
    assert (settings.missed_runs, settings.key) == ("skip", "k")


def test_bad_number_on_the_command_line_names_the_setting() -> None:
    conf.register_settings()
    with pytest.raises(ValueError, match="'leader_ttl': could not convert string to float: 'soon'"):
        make_app({}).config_from_cmdline(["leader.ttl=soon"])


def test_importing_registers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(defaults.NAMESPACES, "leader", raising=False)
    read({})
    assert "leader" not in defaults.NAMESPACES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"CELERY_LEADER_OPTIONS": {"colour": PASSWORD}},
            "CELERY_LEADER_OPTIONS is given with 'colour'; it must be made of arguments of "
            "redis-py's Connection",
        ),
        (
            {
                "CELERY_LEADER_URL": f"rediss://:{PASSWORD}@h",
                "CELERY_LEADER_OPTIONS": {"ssl_ca_cert": "/ca"},
            },
            "CELERY_LEADER_OPTIONS is given with 'ssl_ca_cert'; it must be made of arguments of "
            "redis-py's SSLConnection",
        ),
        (
            {"CELERY_LEADER_URL": f"rediss://:{PASSWORD}@h?ssl_cert_reqs=maybe"},
            "ssl_cert_reqs of CELERY_LEADER_URL is 'maybe'; it must be required, optional or none",
        ),
        (
            {
                "CELERY_LEADER_URL": "sentinel://s",
                "CELERY_LEADER_OPTIONS": {
                    "master_name": "m",
                    "sentinel_kwargs": {"pasword": PASSWORD},
                },
            },
            "sentinel_kwargs of CELERY_LEADER_OPTIONS is given with 'pasword'; it must be made of "
            "arguments of redis-py's Connection",
        ),
    ],
)
def test_what_redis_py_does_not_take_is_refused_with_the_settings(
    values: dict[str, Any], message: str
) -> None:
    assert refusal(make_app({"CELERY_BROKER_URL": BROKER, **values}, DJANGO)) == message


def test_reading_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Before logging is set up a warning would be lost, and one that is said once for good."""
    options = {"ssl_cert_reqs": "none", "socket_timeout": 1}
    settings = read({"leader_url": "rediss://reading-warns", "leader_options": options})
    assert caplog.messages == []
    make_client(settings.url, settings.options, connect_timeout=1, read_timeout=1)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"leader_options": {"credential_provider": "no.such.Provider"}},
        {"leader_url": "redis://h?credential_provider=no.such.Provider"},
    ],
)
def test_reading_loads_no_credential_provider(values: dict[str, Any]) -> None:
    assert read(values).url
