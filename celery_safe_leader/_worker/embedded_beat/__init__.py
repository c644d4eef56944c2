"""The beat of ``celery worker -B``, as its worker sees it."""
