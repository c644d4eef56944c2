"""From a URL or a client of the caller's to a client of redis-py."""
