"""The mathematics: one job, no Celery, Redis or HTTP in sight."""
