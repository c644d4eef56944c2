"""A leader-only task whose writes carry the fencing token: an old leader's are refused.

Run workers of it: celery -A fenced_task worker
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import redis
from celery import Celery

from celery_safe_leader import current_leadership, leader_only

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
DATABASE = os.environ.get("DATABASE", "shop.sqlite3")

app = Celery("shop", broker=REDIS, backend=REDIS)
app.conf.leader_ttl = float(os.environ.get("LEADER_TTL", "10"))

# Compared and written in one step. Tokens are below 2^53: Lua's numbers hold them exactly.
SET_IF_NEWEST = """
if tonumber(ARGV[1]) < tonumber(redis.call('HGET', KEYS[1], 'token') or '0') then
  return 0
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'value', ARGV[2])
return 1
"""
UPDATE_IF_NEWEST = "UPDATE prices SET value = ?, token = ? WHERE name = ? AND token <= ?"


def write_key(client: redis.Redis, name: str, value: str, token: int) -> bool:
    """Write a value in Redis, unless a newer leader has; tell whether it was written."""
    return bool(client.eval(SET_IF_NEWEST, 1, name, token, value))


def write_row(database: sqlite3.Connection, name: str, value: str, token: int) -> bool:
    """Write a row of SQL, unless a newer leader has; tell whether it was written."""
    with database:
        cursor = database.execute(UPDATE_IF_NEWEST, (value, token, name, token))
    return cursor.rowcount == 1


@app.task
@leader_only
def import_price(name: str, source: str) -> dict[str, bool]:
    """Read a price, and write it to both stores."""
    token = current_leadership().token
    # This may take long. Whoever leads meanwhile has a higher token.
    value = Path(source).read_text()
    with redis.Redis.from_url(REDIS) as client:
        in_redis = write_key(client, f"price:{name}", value, token)
    with closing(sqlite3.connect(DATABASE)) as database:
        in_sql = write_row(database, name, value, token)
    return {"redis": in_redis, "sql": in_sql}
