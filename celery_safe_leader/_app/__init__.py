"""What the commands and pages know of a Celery app: its key, its schedule, its settings."""
