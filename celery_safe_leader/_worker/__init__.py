"""What this package adds to Celery workers. Private."""
