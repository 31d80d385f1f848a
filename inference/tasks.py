"""Where Celery looks for this app's tasks."""

from inference.intake import tasks as intake
from inference.predictions import tasks as predictions

__all__ = ["intake", "predictions"]
