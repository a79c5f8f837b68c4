"""ike, mediation and ipsec as one machine without I/O. See `engine.Engine`."""

from agent.engine.engine import Engine

__all__ = ["Engine"]
