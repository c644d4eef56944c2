"""The beat of ``celery worker -B``, in its own process."""
