"""The laboratory itself: what it promises to demo and tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from agent.errors import PlatformError
from agent.operations import lab as laboratory
from agent.operations import leftovers
from agent.operations.lab import Lab, TwoNats
from agent.operations.processes import start_ticks

pytestmark = pytest.mark.netns


def wait_until_inside(pid):
    deadline = time.monotonic() + 5
    while os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_private_hosts_reach_the_public_and_nobody_reaches_them(nats):
    assert nats.gateway.ping(TwoNats.SERVER)
    assert nats.operator.ping(TwoNats.SERVER)
    assert not nats.server.ping(TwoNats.NAT_A, seconds=0.2)
    assert not nats.gateway.ping(TwoNats.OPERATOR, seconds=0.2)


def test_a_failing_command_names_itself_and_its_reason(lab):
    host = lab.namespace("host")
    with pytest.raises(PlatformError, match=r"ip link set nothing up.*nothing"):
        host.run(["ip", "link", "set", "nothing", "up"])


def test_closing_leaves_neither_process_nor_namespace_nor_folder():
    with Lab() as lab:
        host = lab.namespace("host")
        child = host.popen(["sleep", "600"])
        folder = lab.folder
    assert child.returncode is not None
    assert not (leftovers.NETNS / host.full).exists()
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_at_the_next_start():
    script = (
        "from agent.operations.lab import Lab\n"
        "lab = Lab(); host = lab.namespace('host'); child = host.popen(['sleep', '600'])\n"
        "print(host.full, child.pid, lab.folder, flush=True); import time; time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        name, pid, folder = owner.stdout.readline().decode().split()
        # Its own children live until the next start: nobody else would end them.
        owner.send_signal(signal.SIGKILL)
    wait_until_inside(pid)
    leftovers.remove_stale()
    assert not (leftovers.NETNS / name).exists()
    assert not os.path.exists(folder)
    assert start_ticks(int(pid)) is None


def test_what_left_its_namespace_is_ended_too():
    """As with an ordinary user's laboratory, whose namespaces have no name outside of it."""
    with Lab() as lab:
        host = lab.namespace("host")
        child = host.popen(["sleep", "600"])
        wait_until_inside(child.pid)
        host.children.clear()
        subprocess.run(["ip", "netns", "del", host.full], check=True)
    assert child.wait(5) == -signal.SIGTERM


def test_an_interruption_while_a_host_is_made_leaves_nothing(monkeypatch):
    made = []

    def interrupted(argv, *rest, **more):
        subprocess.run(argv, check=True)
        made.append(argv[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(laboratory, "_call", interrupted)
    with pytest.raises(KeyboardInterrupt), Lab() as lab:
        lab.namespace("host")
    assert made
    assert not (leftovers.NETNS / made[0]).exists()


def test_a_kept_laboratory_stays_until_it_is_removed_on_purpose():
    lab = Lab("kept")
    host = lab.namespace("host")
    lab.keep()
    try:
        lab.close()
        leftovers.remove_stale()
        assert (leftovers.NETNS / host.full).exists()
    finally:
        removed = leftovers.remove_kept(lab.owner)
    assert host.full in removed
    assert not lab.folder.exists()
