"""A row of SQL that only the newest leader can write: the row keeps the highest token."""

import os
import sqlite3

from celery_safe_leader import create_safe_redis_leader

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")


def write(database: sqlite3.Connection, name: str, token: int, value: str) -> bool:
    """Write a row, unless a newer leader has written; tell whether it was written."""
    with database:
        cursor = database.execute(
            "UPDATE report SET value = ?, token = ? WHERE name = ? AND token <= ?",
            (value, token, name, token),
        )
    return cursor.rowcount == 1


if __name__ == "__main__":
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE report (name TEXT PRIMARY KEY, value TEXT, token BIGINT)")
    database.execute("INSERT INTO report VALUES ('daily', '', 0)")
    with create_safe_redis_leader(redis=REDIS, key="reports", ttl=1.5) as leader:
        token = leader.wait_until_leader(timeout=10)
        print("newest leader:", write(database, "daily", token, "from the new leader"))
    print("older leader:", write(database, "daily", token - 1, "from the old leader"))
    print("the row holds:", *database.execute("SELECT value FROM report").fetchone())
