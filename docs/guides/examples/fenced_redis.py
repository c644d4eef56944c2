"""A value in Redis that only the newest leader can write: the key keeps the highest token."""

import os

import redis

from celery_safe_leader import create_safe_redis_leader

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

# Compared and written in one step. A comparison in Python could be out of date when it writes.
# Tokens are below 2^53: Lua's numbers hold them exactly.
WRITE_IF_NEWEST = """
local highest = tonumber(redis.call('HGET', KEYS[1], 'token') or '0')
if tonumber(ARGV[1]) < highest then
  return 0
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'value', ARGV[2])
return 1
"""


def write(client: redis.Redis, name: str, token: int, value: str) -> bool:
    """Write a value, unless a newer leader has written; tell whether it was written."""
    return bool(client.eval(WRITE_IF_NEWEST, 1, name, token, value))


if __name__ == "__main__":
    client = redis.Redis.from_url(REDIS, decode_responses=True)
    with create_safe_redis_leader(redis=REDIS, key="price-list", ttl=1.5) as leader:
        token = leader.wait_until_leader(timeout=10)
        print("newest leader:", write(client, "prices", token, "from the new leader"))
    # What a leader does that stood still while another one was elected:
    print("older leader:", write(client, "prices", token - 1, "from the old leader"))
    print("prices hold:", client.hget("prices", "value"))
