"""The pipeline of due runs: claimed, published, committed. Knows neither Celery nor kombu."""
