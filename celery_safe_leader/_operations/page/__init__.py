"""What a page about one key shows, and what it may do. Knows no framework and no Celery."""
