"""The engines that tests use."""

from tests.engine import engine, own_engine

__all__ = ["engine", "own_engine"]
