"""The hardware and system under the agent: ports, storage, watchdog, service. Knows nothing of it."""

from __future__ import annotations
