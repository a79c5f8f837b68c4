"""What the daemon loads: each module stays in a board's memory for good."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.lab.daemon import CHECKOUT

# Only a mediation server gives tickets; the rest waits until somebody asks for it.
LATER = (
    "agent.commands.connecting",
    "agent.commands.draining",
    "agent.commands.pairing",
    "agent.commands.points",
    "agent.crypto.certificates",
    "agent.crypto.ticket",
    "agent.ike.tickets",
    "argparse",
)


def test_what_is_asked_for_later_is_loaded_later():
    script = "import sys, agent.serve; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "agent.daemon" in loaded
    assert [name for name in LATER if name in loaded] == []
