"""What tshark makes of our own sessions with the keys of `--keylog`: all of it, and no complaint.

One session in virtual time holds registration, connectivity checks, the mediated IKE SA, inner
echoes, rekeyings of the Child SA and the IKE SA from either side, liveness, an enrolment, deletes.
tests/interop/test_keylog.py does the same with sockets, tcpdump and strongSwan.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from agent.crypto.keymat import IkeKeys
from agent.datagram import Address, Path
from agent.engine import keylog
from agent.engine.entries import MediatorPlace, ServerEntry
from agent.engine.events import MediatorChanged, TunnelUp
from agent.ike.events import IkeKeysDerived, InstallChildSa
from agent.wire.codes import EncryptionId, IntegrityId, ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import parse_proposals
from tests.sim.test_engines import Box, echo
from tests.support.network import Network
from tests.support.tshark import PRIVATE, UNNAMED, dissect, is_esp, pcap

if TYPE_CHECKING:
    from pathlib import Path as Folder

# Together every word of ours that tshark can decrypt with; the others are in test_oracle.
HYBRID = ("aes128gcm16-prfsha256-x25519-ke1_mlkem768", "aes128gcm16-x25519")
SUITES = [
    ("aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"),
    ("aes256gcm16-prfsha384-ecp256", "aes256gcm16-esn"),
    ("aes128-sha256-ecp384", "aes128-sha256-ecp384"),
    ("aes256-sha384-ecp521", "aes256-sha384"),
    ("aes256-sha512-modp2048", "aes128-sha512-modp3072-noesn"),
    ("aes128ccm16-prfsha512-modp3072", "chacha20poly1305-x25519"),
    ("aes256ccm16-prfsha256-modp4096", "chacha20poly1305-esn"),
    ("aes128ccm8-prfsha256-x25519", "aes128gcm16-x25519-esn"),
    ("aes256ccm8-prfsha384-x25519", "aes256-sha512-esn"),
]


class Session:
    """Everything there is, once. `trace` and `lines` are what the judge gets."""

    def __init__(self, ike: str, esp: str) -> None:
        self.network = network = Network()
        self.is_hybrid = "mlkem" in ike
        self.lines: list[str] = []
        proposals = parse_proposals((ike,), ProtocolId.IKE)
        ciphers = parse_proposals((esp,), ProtocolId.ESP)

        def box(name: str, *hosts: str) -> Box:
            return Box(name, *hosts, ike=proposals, esp=ciphers, key_log=self.lines.append)

        server = box("server")
        server.engine.serve(
            ServerEntry(
                key=server.mediation,
                local_id=Identification.key_id(server.mediation.public),
                proposals=proposals,
            )
        )
        network.host("server", server, ("203.0.113.10", network.public))
        self.boxes = [box(name, f"192.168.{i}.10") for i, name in enumerate("abcd", start=1)]
        a, b, c, d = self.boxes
        for index, (one, other) in enumerate(((a, b), (b, a), (c, d), (d, c)), start=1):
            nat = network.nat(f"198.51.100.{index}")
            network.host(one.name, one, (f"192.168.{index}.10", nat.inside))
            one.know(other, now=network.now, childless=one is d or one is c)
            one.register(server, network.now)
        network.run(3)
        assert all(
            any(e.state == "registered" for e in box.of(MediatorChanged)) for box in self.boxes
        )
        self._tunnel(a, b)
        self._enrolment(c)
        for one in self.boxes:
            one.engine.close(network.now)
        network.run(2)

    def _tunnel(self, a: Box, b: Box) -> None:
        network = self.network
        a.engine.connect("b", network.now)
        assert network.run(5, lambda: bool(a.of(TunnelUp) and b.of(TunnelUp)))
        self._echo(a, b)
        rekeyings = [(a, "b", False), (b, "a", False), (b, "a", True), (a, "b", True)]
        # tshark reassembles by addresses and message ID alone, and takes fragments of two IKE SAs
        # for one message: no second IKE SA where each begins with fragments.
        for one, name, ike in rekeyings[: 3 if self.is_hybrid else 4]:
            one.engine.rekey(name, network.now, ike=ike)
            network.run(1)
            self._echo(a, b)
        network.run(70)  # liveness, keepalives
        a.engine.disconnect("b", network.now)
        network.run(2)

    def _echo(self, a: Box, b: Box) -> None:
        for kind, (one, other) in ((128, (a, b)), (129, (b, a))):
            other.delivered.clear()
            one.engine.receive_packets([echo(one.inner, other.inner, kind)], self.network.now)
            assert self.network.run(1, lambda to=other: bool(to.delivered))

    def _enrolment(self, c: Box) -> None:
        c.engine.connect("d", self.network.now)
        self.network.run(3)
        c.engine.send_enrolment("d", b"\0" * 64, self.network.now)
        self.network.run(1)

    def capture(self, folder: Folder) -> Folder:
        path = folder / "capture.pcap"
        datagrams = ((at, p.source, p.destination, p.data) for at, _, p in self.network.trace)
        path.write_bytes(pcap(datagrams))
        return path


@pytest.mark.parametrize(
    "suite",
    [pytest.param(HYBRID, marks=pytest.mark.mlkem, id=" ".join(HYBRID)), *SUITES],
    ids=" ".join,
)
def test_tshark_reads_everything(tmp_path, suite):
    session = Session(*suite)
    lines = list(dict.fromkeys(session.lines))
    verdict = dissect(tmp_path, session.capture(tmp_path), lines)
    assert len(verdict.frames) == len(session.network.trace)
    assert verdict.sealed() == []
    assert verdict.unknown() <= PRIVATE | (set(UNNAMED) if session.is_hybrid else set())
    names = verdict.names()
    for name in (
        *("IKE_SA_INIT (34)", "IKE_AUTH (35)", "CREATE_CHILD_SA (36)", "INFORMATIONAL (37)"),
        *("Unknown (240)", "Delete (42)"),
    ):
        assert name in names, names
    assert any(name.endswith("(128)") for name in names)  # payload IDp, whatever it takes it for
    notifies = {int(n) for f in verdict.ike for n in re.findall(r"STATUS TYPES \((\d+)\)", f)}
    assert {40962, 40963, 40965, 40966, 40967, 40968, 41001, 41002, 41003} <= notifies
    esp = [p for _, _, p in session.network.trace if is_esp(p.data)]
    assert len(verdict.esp) == len(esp) == (8 if session.is_hybrid else 10)
    assert verdict.wrong() == []
    for frame in verdict.esp:
        assert "[Good: True]" in frame
        assert "Echo (ping)" in frame


def test_a_server_that_is_drained(tmp_path):
    """REDIRECT and HG_REDIRECT to who is registered, and in IKE_AUTH to who comes later."""
    network = Network()
    lines: list[str] = []
    proposals = parse_proposals((SUITES[0][0],), ProtocolId.IKE)
    hosts = {
        "server": "203.0.113.10",
        "second": "203.0.113.20",
        "a": "198.51.100.1",
        "b": "198.51.100.2",
    }
    server, second, a, b = (
        Box(n, h, ike=proposals, key_log=lines.append) for n, h in hosts.items()
    )
    for box in (server, second):
        own = Identification.key_id(box.mediation.public)
        entry = ServerEntry(key=box.mediation, local_id=own, proposals=proposals)
        box.engine.serve(entry)
    for box in (server, second, a, b):
        network.host(box.name, box, (hosts[box.name], network.public))

    def registered(box: Box) -> bool:
        return [e.state for e in box.of(MediatorChanged)][-1:] == ["registered"]

    a.register(server, network.now)
    assert network.run(5, lambda: registered(a))
    place = MediatorPlace(hosts["second"], 4500, second.mediation.public)
    server.engine.drain(place, network.now)
    network.run(5)
    b.register(server, network.now)
    network.run(5)
    assert registered(a)
    assert registered(b)
    assert second.engine.status(network.now).server.registered == 2
    for box in (a, b):
        box.engine.close(network.now)
    network.run(2)
    path = tmp_path / "capture.pcap"
    trace = [(at, p.source, p.destination, p.data) for at, _, p in network.trace]
    path.write_bytes(pcap(trace))
    verdict = dissect(tmp_path, path, list(dict.fromkeys(lines)))
    assert len(verdict.frames) == len(trace)
    assert verdict.sealed() == []
    assert verdict.unknown() <= PRIVATE
    assert verdict.wrong() == []
    assert "REDIRECTED_FROM (16408)" in "".join(verdict.ike)
    for exchange in ("INFORMATIONAL (37)", "IKE_AUTH (35)"):
        told = [f for f in verdict.ike if exchange in f and "REDIRECT (16407)" in f]
        assert len(told) == 1, exchange
        assert "STATUS TYPES (41006)" in told[0]


def test_the_judge_notices_wrong_keys(tmp_path):
    """One octet of each key changed: nothing of what is encrypted passes."""
    session = Session(*SUITES[0])

    def spoilt(line: str) -> str:
        fields = line.split(",")
        for at in (5,) if line.startswith('"IP') else (2, 3):
            quote = fields[at][-1:] == '"'
            digits = fields[at].rstrip('"')
            fields[at] = digits[:-9] + ("0" if digits[-9] != "0" else "1") + digits[-8:]
            fields[at] += '"' if quote else ""
        return ",".join(fields)

    lines = [spoilt(line) for line in dict.fromkeys(session.lines)]
    verdict = dissect(tmp_path, session.capture(tmp_path), lines)
    assert len(verdict.sealed()) > 50
    assert not any("[Good: True]" in frame for frame in verdict.esp)
    assert verdict.wrong()


# --- lines ---------------------------------------------------------------------------------------


def keys(**more: bytes) -> IkeKeys:
    names = ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr")
    return IkeKeys(**{name: more.get(name, b"") for name in names})


def derived(encr: int, bits: int, integ: int, **more: bytes) -> IkeKeysDerived:
    spis = bytes(range(16))
    return IkeKeysDerived(spis=spis, encr_id=encr, key_bits=bits, integ_id=integ, keys=keys(**more))


# Wireshark's test/config/ikev2_decryption_table.tmpl has lines of this form.
def test_a_line_for_ike():
    order = derived(
        EncryptionId.ENCR_AES_CBC,
        256,
        IntegrityId.AUTH_HMAC_SHA2_256_128,
        sk_ei=b"\1",
        sk_er=b"\2",
        sk_ai=b"\3",
        sk_ar=b"\4",
        sk_d=b"secret",
        sk_pi=b"secret",
    )
    assert list(keylog.ike_lines(order)) == [
        "0001020304050607,08090a0b0c0d0e0f,01,02,"
        '"AES-CBC-256 [RFC3602]",03,04,"HMAC_SHA2_256_128 [RFC4868]"'
    ]
    assert repr(order).count("keys") == 0


def test_what_wireshark_has_no_name_for_is_a_comment():
    (line,) = keylog.ike_lines(derived(EncryptionId.ENCR_CHACHA20_POLY1305, 0, 0, sk_ei=b"\1"))
    assert line.startswith("# 0001020304050607,")
    assert "ENCR_CHACHA20_POLY1305" in line
    for line in keylog.esp_lines(child(EncryptionId.ENCR_AES_CCM_8, 0)):
        assert line.startswith('# "IPv6","*","*","0x')


def child(encr: int, integ: int, **more: object) -> InstallChildSa:
    address = Address(bytes(16), 4500)
    values: dict[str, object] = {
        **dict.fromkeys(("soft_octets", "hard_octets", "soft_packets", "hard_packets"), 1),
        **dict.fromkeys(("local_ts", "remote_ts"), ()),
        "esn": False,
    }
    return InstallChildSa(
        ike_id=1,
        peer="b",
        spi_in=b"in in"[:4],
        spi_out=b"out!",
        encr_id=encr,
        key_bits=128,
        integ_id=integ,
        keys_in=(b"\1", b"\2" if integ else b""),
        keys_out=(b"\3", b"\4" if integ else b""),
        path=Path(address, address),
        **{**values, **more},
    )


# Wireshark's test/config/esp_sa.tmpl has lines of this form.
def test_lines_for_esp():
    cbc = child(EncryptionId.ENCR_AES_CBC, IntegrityId.AUTH_HMAC_SHA2_512_256, esn=True)
    assert list(keylog.esp_lines(cbc)) == [
        '"IPv6","*","*","0x696e2069","AES-CBC [RFC3602]","0x01","HMAC-SHA-512-256 [RFC4868]",'
        '"0x02","64-bit","0"',
        '"IPv6","*","*","0x6f757421","AES-CBC [RFC3602]","0x03","HMAC-SHA-512-256 [RFC4868]",'
        '"0x04","64-bit","0"',
    ]
    gcm = keylog.esp_lines(child(EncryptionId.ENCR_AES_GCM_16, 0))
    assert next(gcm) == (
        '"IPv6","*","*","0x696e2069","AES-GCM with 16 octet ICV [RFC4106]","0x01","NULL",""'
    )


def test_without_a_key_log_no_line_is_made(monkeypatch):
    """Nothing but the option leads to the two functions that write keys as text."""

    def no(_output: object) -> list[str]:
        raise AssertionError("a line was made")

    monkeypatch.setattr(keylog, "ike_lines", no)
    monkeypatch.setattr(keylog, "esp_lines", no)
    box = Box("a")
    box.engine._switch.on_ike(derived(EncryptionId.ENCR_AES_GCM_16, 128, 0), 0.0)
    with_log = Box("b", key_log=list[str]().append)
    with pytest.raises(AssertionError, match="a line"):
        with_log.engine._switch.on_ike(derived(EncryptionId.ENCR_AES_GCM_16, 128, 0), 0.0)
