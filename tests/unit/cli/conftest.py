"""A mediator, a gateway with the simulated controller and an operator, for a whole module."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from agent.operations.controller import EXAMPLE_TOML
from agent.operations.lab import Lab, TwoNats
from tests.lab.daemon import Hearthgate
from tests.unit.daemon.process import environment


@dataclass
class Running:
    """Three daemons; `operator` knows `gateway` as cabin, which knows it as laptop."""

    lab: Lab
    net: TwoNats
    mediator: Hearthgate
    gateway: Hearthgate
    operator: Hearthgate
    line: str


def mediator_line(mediator: Hearthgate) -> str:
    from agent.crypto.auth import key_text

    return f"{TwoNats.SERVER}#{key_text(_raw(mediator.status()['mediation']))}"


def _raw(text: str) -> bytes:
    from agent.crypto.auth import parse_key_text

    return parse_key_text(text)


def controller(lab: Lab, net: TwoNats) -> str:
    """Start the simulated heating controller; returns its port."""
    link = lab.folder / "boiler"
    child = net.gateway.popen(
        [sys.executable, "-P", "-m", "agent.operations.controller", "--link", str(link)],
        env=environment(),
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    json.loads(child.stdout.readline())
    child.stdout.close()
    return str(link)


@pytest.fixture(scope="module")
def running():
    with Lab("cli") as lab:
        net = TwoNats.build(lab)
        mediator = Hearthgate(
            net.server, lab.folder / "m", f'[mediate]\naddress = "{TwoNats.SERVER}"\n'
        ).start()
        line = mediator_line(mediator)
        device = EXAMPLE_TOML.format(port=controller(lab, net))
        gateway = Hearthgate(net.gateway, lab.folder / "g", "")
        gateway.layout.config.unlink()
        gateway.cli("setup", line, "--name", "cabin", "--no-service")
        with gateway.layout.config.open("a") as file:
            file.write(device)
            file.write('\n[device.bus]\ntype = "serial"\nport = "/dev/unplugged"\nlisten = 7001\n')
        gateway.start()
        operator = Hearthgate(net.operator, lab.folder / "o", "").start()
        gateway.wait_registered()
        yield Running(lab, net, mediator, gateway, operator, line)
        for machine in (operator, gateway, mediator):
            if machine.is_running:
                assert machine.stop() == 0, machine.log
            assert "Traceback" not in machine.log, machine.log


@pytest.fixture(scope="module")
def pair(running):
    """Paired by the commands, as in the first hour."""
    invitation = running.gateway.cli("invite", "laptop", "--no-qr")
    running.operator.cli("accept", invitation.stdout.strip(), "--name", "cabin")
    running.operator.cli("connect", "cabin")
    return running
