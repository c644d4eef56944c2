"""The header ``Host``: what a page of another site cannot make a browser send to this host."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Sequence

__all__ = ["names_this_host"]

_LOCAL_ENDINGS = (".local", ".localhost", ".internal", ".svc")


def names_this_host(hosts: Sequence[str], others: Collection[str] = ()) -> bool:
    """Return whether a request names this host: a page of another site cannot make it do so.

    Names that no public site can have are this host's: addresses, names without a dot, and the
    names that it calls itself by.

    Args:
        hosts: The values of all ``Host`` headers.
        others: Further names of this host, in small letters.
    """
    if len(hosts) != 1:
        return False
    name = hosts[0].strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        name = name.rstrip(".")
        own = socket.gethostname().lower()
        is_ours = name == own or name in others or name.endswith(_LOCAL_ENDINGS)
        return bool(name) and ("." not in name or is_ours)
    return True
