"""The Celery worker: decode, solve, store."""
