"""One empty namespace for daemons that shall fail, and one running pair, for the whole module."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def host():
    """A namespace with an address and nobody else in it."""
    from agent.operations.lab import Lab

    with Lab("bad") as lab:
        switch = lab.switch("net")
        made = lab.namespace("host")
        lab.connect(made, "eth0", switch, ["203.0.113.50/24"])
        yield made
