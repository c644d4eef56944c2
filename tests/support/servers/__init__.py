"""Real servers: Redis and Valkey alone, behind Sentinels and in a cluster; RabbitMQ."""

from tests.support.servers.kinds import find_binary, installed_kinds
from tests.support.servers.server import ExternalServer, Server

__all__ = ["ExternalServer", "Server", "find_binary", "installed_kinds"]
