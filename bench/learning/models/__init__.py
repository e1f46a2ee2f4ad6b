"""Models by name, their weights, and how they are built. A user's file calls :func:`register`."""

from bench.learning.models.registry import register

__all__ = ["register"]
