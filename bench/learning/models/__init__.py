"""Models by name, their weights, and how they are built. :func:`model` describes a model of the user's."""

from bench.learning.models.from_user import model

__all__ = ["model"]
