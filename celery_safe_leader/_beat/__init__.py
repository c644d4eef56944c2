"""The parts of the beat scheduler; the public face is :mod:`celery_safe_leader.beat`."""
