"""The pipeline of due runs. Knows neither Celery nor kombu."""
