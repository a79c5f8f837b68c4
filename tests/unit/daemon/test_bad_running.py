"""What goes wrong while the daemon runs: a sentence for the person, and it goes on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.crypto.auth import key_text
from agent.operations.lab import Lab, TwoNats
from agent.peers import KnownPeer, Peers
from board.storage import JsonState
from tests.lab.daemon import Hearthgate
from tests.support.pair import key_of
from tests.unit.cli.conftest import mediator_line
from tests.unit.daemon.process import wait

pytestmark = pytest.mark.netns

SEED = bytes(range(32))


@pytest.fixture(scope="module")
def street():
    """Two houses on one segment, a and b, without NAT."""
    with Lab("bad") as lab:
        switch = lab.switch("net")
        hosts = []
        for number, name in enumerate("ab", 1):
            host = lab.namespace(name)
            lab.connect(host, "eth0", switch, [f"203.0.113.{number}/24"])
            hosts.append(host)
        yield lab, hosts


def two(street, name: str, here: str, there: str):
    lab, (a, b) = street
    one = Hearthgate(a, lab.folder / name / "a", here).start()
    try:
        other = Hearthgate(b, lab.folder / name / "b", there).start()
    except BaseException:
        one.stop()
        raise
    return one, other


def connect(machine: Hearthgate, name: str) -> tuple[int, str]:
    done = machine.cli("connect", name, check=False)
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


def stop(*machines: Hearthgate) -> None:
    for machine in machines:
        if machine.is_running:
            assert machine.stop() == 0
        assert "Traceback" not in machine.log, machine.log


def psk(name: str, other: str, secret: str, address: str = "") -> str:
    where = f'address = "{address}"\n' if address else ""
    own = f'local_id = "{name}"\nassign = "10.3.0.1"\n'
    return f'[peer.{other}]\nid = "{other}"\n{own}psk = "{secret}"\n{where}'


def test_wrong_psk(street):
    a, b = two(
        street,
        "psk",
        psk("a", "b", "correct horse battery", "203.0.113.2"),
        psk("b", "a", "incorrect horse battery"),
    )
    code, sentence = connect(a, "b")
    assert code == 75
    assert "b: it did not prove the key" in sentence
    assert "hearthgate keeps trying; `hearthgate disconnect b` ends that." in sentence
    assert "battery" not in a.log + b.log + sentence
    status = a.peer("b")
    assert status["state"] == "waiting"
    assert status["retry_in"] > 0
    stop(a, b)


def test_the_peer_does_not_know_us(street):
    a, b = two(street, "unknown", psk("a", "b", "correct horse battery", "203.0.113.2"), "")
    code, sentence = connect(a, "b")
    assert code == 75
    assert "does not know ours" in sentence or "proposals" in sentence
    assert b.status()["peers"] == []
    a.cli("disconnect", "b")
    assert a.peer("b")["state"] == "idle"
    stop(a, b)


def test_a_peer_whose_name_does_not_resolve(street):
    lab, (host, _) = street
    a = Hearthgate(
        host, lab.folder / "name", psk("a", "b", "correct horse battery", "no-such-host.invalid")
    ).start()
    code, sentence = connect(a, "b")
    assert code == 75
    assert "no-such-host.invalid" in sentence
    assert a.status()["peers"][0]["state"] == "waiting"
    stop(a)


def test_a_mediator_whose_name_does_not_resolve(street):
    lab, (host, _) = street
    key = key_text(key_of("med").public)
    a = Hearthgate(
        host, lab.folder / "mediator", f'[mediator.m]\naddress = "no.invalid"\nkey = "{key}"\n'
    ).start()
    a.wait("told", lambda s: "no.invalid" in s["mediators"][0]["error"], 20)
    assert ": \n" not in a.cli("doctor", check=False).stdout
    said = a.cli("status").stdout
    assert "mediator m  waiting, again in" in said
    assert "no.invalid" in said
    doctor = a.cli("doctor", check=False)
    assert doctor.returncode == 1
    assert "FAIL  mediator m: waiting" in doctor.stdout
    stop(a)


def test_a_listener_that_another_program_has(street):
    """Port 500 in use: a warning; those who come by way of 4500 still can."""
    lab, (host, _) = street
    holder = host.popen(
        [
            "python3",
            "-c",
            "import socket, time; s = socket.socket(2, 2); s.bind(('', 500)); "
            "print(1, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"1\n"
    a = Hearthgate(host, lab.folder / "port", psk("a", "b", "correct horse battery")).start()
    assert "UDP port 500 cannot be opened" in a.log
    assert "peers that begin on port 500 cannot reach us" in a.log
    stop(a)
    holder.terminate()
    holder.stdout.close()


def peer_by_key(name: str, more: str) -> str:
    return f'[peer.{name}]\nkey = "{key_text(key_of(name).public)}"\n{more}\n'


PAGE = """
import socket
s = socket.socket(10, 1)
s.setsockopt(1, 2, 1)
s.bind(("::", 80))
s.listen()
print(1, flush=True)
while True:
    s.accept()[0].sendall(b"the page of the router")
"""
ASK = """
import socket, sys
try:
    print(socket.create_connection((sys.argv[1], 80), 0.7).recv(99).decode())
except OSError as error:
    print(type(error).__name__)
"""


def test_the_page_of_a_router_is_not_what_an_operator_was_granted(street):
    """Port 80 of all addresses is another program's, as LuCI's is; only `tcp:80` opens that."""
    lab, (here, there) = street
    page = here.popen(["python3", "-c", PAGE], stdout=subprocess.PIPE)
    assert page.stdout.readline() == b"1\n"
    device = '[mediator.m]\naddress = "203.0.113.99"\nkey = "' + "A" * 43 + '"\n'
    a = Hearthgate(
        here,
        lab.folder / "page" / "a",
        device + peer_by_key("b", 'role = "operator"') + '[device.d]\ntype = "mqtt"\n',
        identity=key_of("a").seed,
    ).start()
    b = Hearthgate(
        there,
        lab.folder / "page" / "b",
        peer_by_key("a", 'address = "203.0.113.1"'),
        identity=key_of("b").seed,
    ).start()
    assert connect(b, "a")[0] == 0
    address = a.status()["address"]
    assert there.ping(address)
    assert there.run(["python3", "-c", ASK, address]).stdout == "TimeoutError\n"
    why = "TCP port 80 is in use by another program"
    assert why in a.status()["get_and_set"]
    assert f"get and set  closed  {why}" in a.cli("status").stdout
    assert f"FAIL  get and set: {why}" in a.cli("doctor", check=False).stdout
    a.layout.config.write_text(device + peer_by_key("b", 'role = "operator"\ngrants = ["tcp:80"]'))
    assert a.stop() == 0
    a.start()
    assert connect(b, "a")[0] == 0
    b.wait("up again", lambda status: status["peers"][0]["state"] == "up")
    assert there.run(["python3", "-c", ASK, address]).stdout == "the page of the router\n"
    stop(a, b)
    page.terminate()
    page.stdout.close()


def test_an_unplugged_adapter(street):
    """Told alike for one point and for all of a device, and the next command is served."""
    lab, (host, _) = street
    key = key_text(key_of("med").public)
    machine = Hearthgate(
        host,
        lab.folder / "unplugged",
        f'[mediator.m]\naddress = "203.0.113.99"\nkey = "{key}"\n'
        '[device.boiler]\ntype = "modbus"\nport = "/dev/unplugged"\n'
        "[device.boiler.points.setpoint]\nregister = 0\n",
    ).start()
    for what in ("boiler", "boiler.setpoint"):
        done = machine.cli("get", what, check=False)
        assert done.returncode == 69, what
        assert "is the adapter plugged in?" in done.stdout + done.stderr
    assert (
        "closed there is no such port: is the adapter plugged in?" in machine.cli("status").stdout
    )
    stop(machine)


# --- state that cannot be written --------------------------------------------------------------


def small_disk(lab, host, name: str, *paired: KnownPeer) -> tuple[Hearthgate, Path]:
    """A daemon whose state folder is a small file system; also as seen from outside."""
    key = key_text(key_of("med").public)
    config = (
        f'[mediator.m]\naddress = "203.0.113.99"\nkey = "{key}"\n'
        f'[peer.x]\nkey = "{key}"\naddress = "203.0.113.98"\n'
    )
    machine = Hearthgate(host, lab.folder / name, config)
    state = machine.layout.state
    before = machine.layout.root / "before.json"
    JsonState(before).save(Peers(paired).to_json())
    mount = f"mount -t tmpfs -o size=64k tmpfs {state} && cp {before} {state}/peers.json"
    script = f'{mount} && exec "$@"'
    with machine._console.open("ab") as console:
        machine._process = host.popen(
            ["unshare", "-m", "sh", "-c", script, "sh", *machine.argv, "run"],
            env=machine.env,
            stderr=console,
            stdout=subprocess.DEVNULL,
        )
    from agent.operations.setup import daemon_runs

    wait("up", lambda: daemon_runs(machine.layout.root))
    return machine, Path(f"/proc/{machine.pid}/root{state}")


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_while_it_runs(street):
    lab, (host, _) = street
    machine, state = small_disk(lab, host, "full")
    machine.cli("invite", "first", "--json")
    before = (state / "peers.json").read_bytes()
    fill(state / "fill")
    done = machine.cli("invite", "second", check=False)
    assert done.returncode == 74
    assert "no space is left: free some and try again" in done.stderr
    assert done.stdout == ""
    assert (state / "peers.json").read_bytes() == before
    assert [i["name"] for i in machine.status()["invitations"]] == ["first"]
    (state / "fill").unlink()
    assert machine.cli("invite", "second").stdout.startswith("hg1:")
    stop(machine)


def test_a_read_only_medium_while_it_runs(street):
    lab, (host, _) = street
    machine, state = small_disk(lab, host, "readonly")
    machine.cli("invite", "first", "--json")
    mount = ["nsenter", "-t", str(machine.pid), "-m", "mount", "-o"]
    subprocess.run([*mount, "remount,ro", str(machine.layout.state)], check=True)
    done = machine.cli("invite", "second", check=False)
    assert done.returncode == 74
    assert "read-only: remount it writable" in done.stderr
    inside = ["nsenter", "-t", str(machine.pid), "-m", *machine.argv, "doctor"]
    said = host.run(inside, env=machine.env, check=False).stdout
    assert f"FAIL  disk: {machine.layout.state} is on a read-only medium" in said
    # Who is revoked is shut out, whether that can be stored or not.
    for _ in range(2):
        done = machine.cli("revoke", "first", check=False)
        assert done.returncode == 74
        assert 'No "first" gets in any more, but only until the next start: ' in done.stderr
        assert "read-only: remount it writable" in done.stderr
        assert machine.status()["invitations"] == []
        assert b"first" in (state / "peers.json").read_bytes()
    subprocess.run([*mount, "remount,rw", str(machine.layout.state)], check=True)
    assert machine.cli("revoke", "first").stdout == "first is forgotten.\n"
    assert b"first" not in (state / "peers.json").read_bytes()
    assert machine.cli("revoke", "first", check=False).returncode == 68
    stop(machine)


def known(name: str, role: str, *grants: str) -> KnownPeer:
    return KnownPeer(
        name=name,
        identity=key_text(key_of(name).public),
        mediation=key_text(key_of("mediation " + name).public),
        role=role,
        grants=grants,
    )


def test_a_grant_that_cannot_be_stored(street):
    """What is taken away is gone at once, until the next start at least; nothing is given."""
    lab, (host, _) = street
    machine, state = small_disk(lab, host, "grants", known("guest", "owner", "tcp:22", "tcp:80"))
    mount = ["nsenter", "-t", str(machine.pid), "-m", "mount", "-o"]
    subprocess.run([*mount, "remount,ro", str(machine.layout.state)], check=True)
    stored = (state / "peers.json").read_bytes()

    def granted(*words: str) -> tuple[str, tuple[str, list[str]]]:
        done = machine.cli("grant", "guest", *words, check=False)
        assert done.returncode == 74
        assert "read-only: remount it writable" in done.stderr
        assert (state / "peers.json").read_bytes() == stored
        peer = next(p for p in machine.json("peers") if p["name"] == "guest")
        status = machine.peer("guest")["role"]
        assert status == peer["role"]
        return done.stderr, (peer["role"], peer["grants"])

    for words in (("operator", "--remove", "tcp:80"), ("operator",)):
        said, now = granted(*words)
        assert '"guest" is operator and tcp:22, but only until the next start: ' in said
        assert now == ("operator", ["tcp:22"])
    for more in (("owner",), ("--add", "tcp:443")):
        said, now = granted(*more)
        assert "until the next start" not in said
        assert now == ("operator", ["tcp:22"])
    said, now = granted("reader", "--add", "tcp:443")  # some of both
    assert '"guest" is reader and tcp:22, but only until the next start: ' in said
    assert now == ("reader", ["tcp:22"])
    subprocess.run([*mount, "remount,rw", str(machine.layout.state)], check=True)
    assert machine.cli("grant", "guest", "none").stdout == "guest is none and tcp:22.\n"
    assert b"tcp:80" not in (state / "peers.json").read_bytes()
    stop(machine)


# --- by way of a mediator ----------------------------------------------------------------------


def mediated(lab, net, more="", invite=()):
    """A running pair, paired by invitation; stop them with `stop`."""
    mediator = Hearthgate(
        net.server, lab.folder / "m", f'[mediate]\naddress = "{TwoNats.SERVER}"\n'
    ).start()
    address, _, key = mediator_line(mediator).partition("#")
    gateway = Hearthgate(
        net.gateway,
        lab.folder / "g",
        f'name = "cabin"\n[mediator.m]\naddress = "{address}"\nkey = "{key}"\n{more}',
    ).start()
    operator = Hearthgate(net.operator, lab.folder / "o", "").start()
    gateway.wait_registered()
    line = gateway.json("invite", "laptop", *invite)["invitation"]
    return mediator, gateway, operator, line


def test_offline_revoked_and_back():
    with Lab("back") as lab:
        net = TwoNats.build(lab)
        mediator, gateway, operator, line = mediated(lab, net)
        operator.cli("accept", line)
        operator.ask("connect", peer="cabin")
        # offline: said goodbye
        assert gateway.stop() == 0, gateway.log
        operator.wait_peer("cabin", "waiting")
        operator.cli("disconnect", "cabin")
        code, sentence = connect(operator, "cabin")
        assert code == 75
        assert "it is offline, or unknown there, or does not let us call it" in sentence
        # back: the mediator tells, long before the next attempt
        gateway.start()
        started = time.monotonic()
        operator.wait_peer("cabin", "up")
        assert time.monotonic() - started < 10
        # power cut: the operator comes back by itself once the gateway is there again
        gateway.kill()
        gateway.start()
        gateway.wait_registered()
        operator.cli("disconnect", "cabin")
        operator.ask("connect", peer="cabin")
        # revoked: out at once
        gateway.cli("revoke", "laptop")
        operator.wait_peer("cabin", "waiting")
        code, sentence = connect(operator, "cabin")
        assert code == 75
        address = operator.status()["peers"][0]["inner"]
        assert address
        assert not net.operator.ping(gateway.status()["address"], seconds=0.3)
        stop(operator, gateway, mediator)


BROKER = """
import socket
with socket.create_server(("127.0.0.1", 1883)) as server:
    print("ready", flush=True)
    while True:
        client, _ = server.accept()
        print("open", flush=True)
        while client.recv(100):
            pass
        print("free", flush=True)
"""
USER = """
import socket, sys
with socket.create_connection((sys.argv[1], 1883), 5) as user:
    user.sendall(b"x")
    user.settimeout(None)
    try:
        ended = user.recv(1) == b""
    except ConnectionResetError:
        ended = True
    print("ended" if ended else "data", flush=True)
"""


@pytest.mark.parametrize("how", ["revoked", "stopped"])
def test_what_was_open_through_the_tunnel_ends_on_both_sides(how):
    """Before the tunnel goes: else the user's program hangs until its own patience ends."""
    with Lab("open") as lab:
        net = TwoNats.build(lab)
        broker = net.gateway.popen([sys.executable, "-c", BROKER], stdout=subprocess.PIPE)
        assert broker.stdout.readline() == b"ready\n"
        mediator, gateway, operator, line = mediated(
            lab, net, more='[device.mqtt]\ntype = "mqtt"\n', invite=("--role", "technician")
        )
        operator.cli("accept", line)
        operator.ask("connect", peer="cabin")
        operator.wait_peer("cabin", "up")
        address = gateway.status()["address"]
        user = net.operator.popen([sys.executable, "-c", USER, address], stdout=subprocess.PIPE)
        assert broker.stdout.readline() == b"open\n"
        if how == "revoked":
            gateway.cli("revoke", "laptop")
        else:
            assert gateway.stop() == 0, gateway.log
        said, _ = user.communicate(timeout=5)
        assert said == b"ended\n"
        assert broker.stdout.readline() == b"free\n"
        broker.terminate()
        broker.communicate(timeout=5)
        stop(operator, gateway, mediator)


def test_no_path_through_two_symmetric_nats():
    with Lab("sym") as lab:
        net = TwoNats.build(lab, address_dependent=(True, True))
        mediator, gateway, operator, line = mediated(lab, net)
        done = operator.cli("accept", line, check=False)
        assert done.returncode in (69, 75)
        assert "no direct path was found: both NAT routers kept every attempt out" in done.stderr
        assert gateway.status()["invitations"][0]["used"] is False
        stop(operator, gateway, mediator)
