"""`--keylog`: what tcpdump caught between real machines, read by tshark. Nothing may stay sealed.

tests/sim/test_keylog.py has more suites; here are the daemon's own option and file, sockets, the
mediated picture of three daemons, and strongSwan, whose messages tshark has to open as well.
"""

from __future__ import annotations

import re
import shutil
import signal
import stat
import time
from typing import TYPE_CHECKING

import pytest

from agent.crypto.signatures import KeyKind
from tests.bench.machines import our_peer, our_server
from tests.interop.ends import INNER, OTHER, Suite
from tests.interop.test_auth import with_certificates, with_keys
from tests.interop.test_direct import ROLES, Pair
from tests.interop.test_ppk import ours, theirs
from tests.support.tshark import PRIVATE, UNNAMED, Verdict, dissect

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.netns

ESP = "aes256gcm16-ecp384"


class Capture:
    """tcpdump in the namespace between the NATs; every datagram once."""

    def __init__(self, nats) -> None:
        if shutil.which("tcpdump") is None:
            pytest.skip("needs the Debian package tcpdump")
        self.folder: Path = nats.lab.folder
        self.path = self.folder / "capture.pcap"
        console = self.folder / "tcpdump"
        # Octets of a packet: by default 256 kB, and the buffer holds a handful, too few if tcpdump
        # has to wait for its turn on a busy machine.
        argv = ["tcpdump", "-Z", "root", "-i", "any", "-s", "2048"]
        argv += ["-Q", "in", "--immediate-mode", "-U", "-w"]
        with console.open("wb") as stderr:
            self._process = nats.internet.popen(
                [*argv, str(self.path), "udp port 4500 or udp port 500"], stderr=stderr
            )
        deadline = time.monotonic() + 5
        while "listening on" not in console.read_text():
            assert time.monotonic() < deadline, console.read_text()
            time.sleep(0.01)

    def judged(self, *keylogs: Path) -> Verdict:
        """End it, and what tshark says with these logs."""
        time.sleep(0.2)  # what is on its way
        self._process.send_signal(signal.SIGINT)
        self._process.wait(5)
        said = (self.folder / "tcpdump").read_text()
        assert "\n0 packets dropped by kernel" in said, said
        lines = [line for path in keylogs for line in path.read_text().splitlines()]
        return dissect(self.folder, self.path, list(dict.fromkeys(lines)))


def assert_opened(verdict: Verdict, *names: str) -> None:
    assert verdict.sealed() == []
    assert verdict.unknown() <= PRIVATE | set(UNNAMED)
    assert verdict.wrong() == []
    assert verdict.esp
    for frame in verdict.esp:
        assert "[Good: True]" in frame
        assert "Echo (ping)" in frame
    text = "\n".join(verdict.ike)
    for name in names:
        assert name in text


def assert_private(path: Path, log: str) -> None:
    """Only its owner reads it; the log warns and shows no key."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"WARNING agent: the keys of all connections go to {path}" in log
    keys = set(re.findall(r"[0-9a-f]{32,}", path.read_text()))
    assert keys
    assert not any(key in log for key in keys)


def test_three_daemons(nats):
    """Registration, ME_CONNECT, checks, the mediated SA, rekeyings, deletes: as it is installed."""
    folder = nats.lab.folder
    capture = Capture(nats)
    server = our_server(nats.server, folder / "ms")
    bob = our_peer(nats.gateway, folder / "bob", "bob", "alice")
    alice = our_peer(nats.operator, folder / "alice", "alice", "bob")
    keylogs = []
    for daemon, name in ((server, "ms"), (bob, "bob"), (alice, "alice")):
        keylogs.append(folder / name / "keys")
        daemon.start("--verbose", "--keylog", str(keylogs[-1]))
    for daemon in (bob, alice):
        daemon.wait_registered()
    alice.ask("connect", peer="bob")
    bob.wait_peer("alice", "up")
    address = bob.status()["address"]
    for what in (False, True):
        alice.ask("rekey", peer="bob", ike=what)
        assert alice.host.ping(address, count=2, seconds=3.0)
    alice.ask("disconnect", peer="bob")
    for daemon, keylog in zip((server, bob, alice), keylogs, strict=True):
        assert daemon.stop() == 0
        assert_private(keylog, daemon.log)
    verdict = capture.judged(*keylogs)
    assert_opened(
        verdict,
        *("IKE_SA_INIT", "IKE_AUTH", "CREATE_CHILD_SA", "Unknown (240)", "Delete (42)"),
        *("(128)", "REKEY_SA", "INITIAL_CONTACT"),
    )
    # Each of the three has its part: none of the logs alone opens everything.
    alone = dissect(folder, capture.path, keylogs[2].read_text().splitlines())
    assert alone.sealed()


def test_a_resumed_registration(nats):
    """RFC 5723: its keys come of no exchange in the capture, and stand in the log all the same."""
    folder = nats.lab.folder
    capture = Capture(nats)
    server = our_server(nats.server, folder / "ms")
    bob = our_peer(nats.gateway, folder / "bob", "bob", "alice")
    keylog = folder / "keys"
    bob.start("--keylog", str(keylog))
    server.start()
    bob.wait_registered()
    server.kill()
    server.start()
    bob.cli("connect", "alice", check=False)  # whoever sends something notices at once
    bob.wait("back", lambda s: s["mediators"][0]["resumed"], 40.0)
    bob.stop()
    verdict = capture.judged(keylog)
    assert verdict.sealed() == []
    assert verdict.unknown() <= PRIVATE | set(UNNAMED)
    assert verdict.wrong() == []
    text = "\n".join(verdict.ike)
    for name in ("IKE_SESSION_RESUME (38)", "TICKET_OPAQUE", "TICKET_REQUEST", "TICKET_LT_OPAQUE"):
        assert name in text
    asked = [frame for frame in verdict.ike if "IKE_SESSION_RESUME (38)" in frame]
    assert not any("Key Exchange (34)" in frame for frame in asked)


@pytest.mark.strongswan
@pytest.mark.parametrize("role", ROLES)
def test_with_strongswan(nats, role):
    """Virtual addresses, a wrong guess of the group, rekeyings by both sides, a delete."""
    capture = Capture(nats)
    keylog = nats.lab.folder / "keys"
    keylog.write_text("")
    keylog.chmod(0o644)  # it becomes private
    both = ("aes256ccm16-prfsha384-ecp256", "aes256ccm16-prfsha384-ecp384")
    esp = "aes256-sha512-ecp384"
    arguments = ("--verbose", "--keylog", str(keylog))
    if role == "initiator":
        pair = Pair(
            nats,
            role,
            suite=Suite(ike='", "'.join(both), esp=esp),
            connection={"proposals": both[1], "pools": "virtual"},
            more="virtual_ip = true\n",
            child={"remote_ts": "dynamic"},
            sections={"pools": {"virtual": {"addrs": "10.98.0.7/32"}}},
            dynamic=True,
            arguments=arguments,
        )
        address = "10.98.0.7"
    else:
        pair = Pair(
            nats,
            role,
            suite=Suite(ike=both[1], esp=esp),
            connection={"proposals": ",".join(both), "vips": "0.0.0.0"},
            more='assign = ["10.98.0.8"]\n',
            child={"local_ts": "dynamic"},
            dynamic=True,
            arguments=arguments,
        )
        address = "10.98.0.8"
    pinger = pair.strongswan if role == "initiator" else pair.ours
    assert pinger.host.ping(address)
    for side in (pair.ours, pair.strongswan):
        for what in ("child", "ike"):
            before = pair.spis(what)
            side.rekey(what)
            pair.wait_rekeyed(what, before)
            assert pinger.host.ping(address)
    pair.ours.delete()
    pair.strongswan.wait_down()
    assert_private(keylog, pair.ours.log)
    verdict = capture.judged(keylog)
    assert_opened(
        verdict,
        *("INVALID_KE_PAYLOAD", "CREATE_CHILD_SA", "Configuration", "Delete (42)", "REKEY_SA"),
    )


@pytest.mark.strongswan
@pytest.mark.parametrize("role", ROLES)
def test_more_with_strongswan(nats, role):
    """A PPK, its fragments, a wide selector that is narrowed, a second Child SA beside the first.

    No second IKE SA here: tshark takes fragments with the same message ID for one message.
    """
    capture = Capture(nats)
    keylog = nats.lab.folder / "keys"
    our_name = "alice" if role == "initiator" else "bob"
    ppk = theirs(our_name, required=True)
    wide = {"remote_ts": "10.99.0.0/16", "esp_proposals": ESP}
    inner = f"{INNER[OTHER[our_name]]}/32"  # strongSwan makes no two of the same
    children = {
        "peer": {**wide, "local_ts": inner},
        "second": {**wide, "local_ts": f"{inner}[tcp]"},
    }
    pair = Pair(
        nats,
        role,
        suite=Suite(ike="aes256-sha384-ecp384", esp=ESP),
        more=ours(required=True),
        connection={**ppk["connection"], "children": children},
        sections=ppk["sections"],
        extra="fragment_size = 260",
        arguments=("--verbose", "--keylog", str(keylog)),
    )
    pair.assert_echo()
    pair.strongswan.charon.initiate("second")
    pair.assert_echo()
    for side in (pair.ours, pair.strongswan):
        before = pair.spis("child")
        side.rekey("child")
        deadline = time.monotonic() + 10
        while pair.spis("child") & before == before or len(pair.spis("child")) != 2:
            assert time.monotonic() < deadline, pair.strongswan.log[-4000:]
            time.sleep(0.05)
        pair.assert_echo()
    pair.ours.delete()
    pair.strongswan.wait_down()
    verdict = capture.judged(keylog)
    assert_opened(
        verdict,
        *("Fragment (53)", "USE_PPK (16435)", "PPK_IDENTITY (16436)", "REKEY_SA"),
        "CREATE_CHILD_SA",
    )


@pytest.mark.strongswan
@pytest.mark.newer
@pytest.mark.mlkem
@pytest.mark.parametrize("role", ROLES)
def test_key_exchanges_with_strongswan_6(nats, role):
    """IKE_INTERMEDIATE and IKE_FOLLOWUP_KE of either side, in fragments, and a PPK."""
    capture = Capture(nats)
    keylog = nats.lab.folder / "keys"
    chain = "x25519-ke1_mlkem1024-ke2_ecp384"
    suite = Suite(ike=f"aes256gcm16-prfsha384-{chain}", esp=f"aes256gcm16-{chain}")
    pair = Pair(
        nats,
        role,
        suite=suite,
        more=ours(required=True),
        arguments=("--verbose", "--keylog", str(keylog)),
        newer=True,
        **theirs("alice" if role == "initiator" else "bob", required=True),
    )
    for side in (pair.ours, pair.strongswan):
        before = pair.spis("child")
        side.rekey("child")
        pair.wait_rekeyed("child", before)
        pair.assert_echo()
    pair.ours.delete()
    pair.strongswan.wait_down()
    verdict = capture.judged(keylog)
    assert_opened(
        verdict,
        *("IKE_INTERMEDIATE (43)", "IKE_FOLLOWUP_KE (44)", "Fragment (53)", "USE_PPK (16435)"),
    )


@pytest.mark.strongswan
@pytest.mark.parametrize(
    ("role", "kind", "proof"),
    [
        ("initiator", KeyKind.RSA, "certificates"),
        ("responder", KeyKind.P384, "certificates"),
        ("initiator", KeyKind.P521, "RFC 4754"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_proofs_with_strongswan(nats, role, kind, proof):
    """Each with a CA between and in fragments both ways; or without RFC 7427."""
    capture = Capture(nats)
    keylog = nats.lab.folder / "keys"
    arguments = ("--verbose", "--keylog", str(keylog))
    if proof == "certificates":
        pair = with_certificates(nats, role, kind, extra="rsa_pss = yes", arguments=arguments)
        names = ["Certificate (37)", "Certificate Request (38)", "Digital Signature (14)"]
        names += ["Fragment (53)"] if kind is KeyKind.RSA else []
    else:
        pair = with_keys(
            nats, role, kind, extra="signature_authentication = no", arguments=arguments
        )
        names = ["(11)"]
    pair.up()
    pair.ours.delete()
    pair.strongswan.wait_down()
    verdict = capture.judged(keylog)
    assert_opened(verdict, *names)
