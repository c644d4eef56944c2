"""Runs that go Celery's own way, through every function that somebody may have changed."""
