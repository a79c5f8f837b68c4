"""The hardware and system under the agent: ports, storage, watchdog, service."""

from __future__ import annotations
