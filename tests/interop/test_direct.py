"""Without mediation: us against strongSwan in both roles, the initiator behind a NAT."""

from __future__ import annotations

import time

import pytest

from tests.interop.ends import (
    CBC,
    GCM,
    INNER,
    OurEnd,
    StrongswanEnd,
    assert_echo,
    direct_ours,
    direct_strongswan,
)

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

ROLES = ["initiator", "responder"]


class Pair:
    """We and strongSwan; `role` is ours."""

    def __init__(self, nats, role, *, auth="ed25519", suite=GCM, more="", **strongswan) -> None:
        places = {"initiator": (nats.operator, "alice"), "responder": (nats.server, "bob")}
        (our_host, our_name) = places.pop(role)
        ((host, name),) = places.values()
        self.ours: OurEnd = direct_ours(
            our_host,
            nats.lab.folder / our_name,
            our_name,
            auth=auth,
            suite=suite,
            initiates=role == "initiator",
            more=more,
        )
        self.strongswan: StrongswanEnd = direct_strongswan(
            host,
            nats.lab.folder / name,
            name,
            auth=auth,
            suite=suite,
            initiates=role == "responder",
            **strongswan,
        )
        self.initiator = self.ours if role == "initiator" else self.strongswan
        for end in (self.ours, self.strongswan):
            end.start()
        self.initiator.connect()
        for end in (self.ours, self.strongswan):
            end.wait_up()

    def assert_echo(self) -> None:
        assert_echo(self.ours, self.strongswan)

    def spis(self, what: str) -> set[str]:
        """The SPIs of all IKE or Child SAs that strongSwan has with us."""
        if what == "ike":
            return {
                sa["initiator-spi"]
                for sa in self.strongswan.charon.sas()
                if sa.get("state") == "ESTABLISHED"
            }
        return {child["spi-in"] for child in self.strongswan.charon.children("peer")}

    def wait_rekeyed(self, what: str, before: set[str]) -> None:
        deadline = time.monotonic() + 10
        while len(now := self.spis(what)) != 1 or now & before:
            assert time.monotonic() < deadline, (
                f"{what}: {before} → {now}\n{self.strongswan.log[-6000:]}\n{self.ours.log[-4000:]}"
            )
            time.sleep(0.02)


@pytest.mark.parametrize("auth", ["psk", "ed25519"])
@pytest.mark.parametrize("suite", [GCM, CBC], ids=["gcm", "cbc"])
@pytest.mark.parametrize("role", ROLES)
def test_tunnel(nats, role, suite, auth):
    pair = Pair(nats, role, suite=suite, auth=auth)
    pair.assert_echo()


@pytest.mark.parametrize("side", ["ours", "strongswan"])
@pytest.mark.parametrize("what", ["child", "ike"])
@pytest.mark.parametrize("role", ROLES)
def test_rekeying(nats, role, what, side):
    pair = Pair(nats, role)
    pair.assert_echo()
    before = pair.spis(what)
    assert len(before) == 1
    getattr(pair, side).rekey(what)
    pair.wait_rekeyed(what, before)
    pair.assert_echo()
    # The new one carries on: rekeyed again, now by the other side.
    other = pair.strongswan if side == "ours" else pair.ours
    before = pair.spis(what)
    other.rekey(what)
    pair.wait_rekeyed(what, before)
    pair.assert_echo()


def test_rekeying_loses_no_packet(nats):
    pair = Pair(nats, "initiator")
    pair.assert_echo()
    ping = pair.ours.host.popen(
        ["ping", "-n", "-q", "-i", "0.01", "-c", "150", "-W", "3", INNER["bob"]],
        stdout=-1,
    )
    for what in ("child", "ike", "child"):
        before = pair.spis(what)
        pair.ours.rekey(what)
        pair.wait_rekeyed(what, before)
    text = ping.communicate(timeout=30)[0].decode()
    assert "150 received" in text, text


@pytest.mark.parametrize("role", ROLES)
def test_child_lifetime_ours(nats, role):
    """Our own clock rekeys the Child SA in time; the tunnel goes on."""
    pair = Pair(nats, role, more="child_seconds = 10\n")
    before = pair.spis("child")
    pair.wait_rekeyed("child", before)
    pair.assert_echo()


@pytest.mark.parametrize("role", ROLES)
def test_child_packets_ours(nats, role):
    """So does the number of packets."""
    pair = Pair(nats, role, more="child_packets = 256\n")
    before = pair.spis("child")
    argv = ["ping", "-n", "-q", "-i", "0.005", "-c", "400", "-W", "3"]
    there = pair.strongswan.name
    done = pair.ours.host.run([*argv, INNER[there]], check=False)
    assert "400 received" in done.stdout, done.stdout + pair.ours.log[-3000:]
    assert not pair.spis("child") & before
    pair.assert_echo()


@pytest.mark.parametrize("side", ["ours", "strongswan"])
@pytest.mark.parametrize("role", ROLES)
def test_delete(nats, role, side):
    pair = Pair(nats, role)
    getattr(pair, side).delete()
    pair.strongswan.wait_down()
    if side == "ours" or role == "responder":
        pair.ours.wait_down()
        assert not pair.ours.host.ping(INNER[pair.strongswan.name], seconds=0.3)
    else:
        # A connection asked for stays asked for: ours comes back by itself.
        pair.ours.wait_up()
        pair.strongswan.wait_up()
        pair.assert_echo()


@pytest.mark.parametrize("role", ROLES)
def test_liveness_is_asked_and_answered(nats, role):
    pair = Pair(nats, role, more="liveness_seconds = 1\n", connection={"dpd_delay": "1s"})
    log = pair.strongswan.charon
    log.wait_log(r"parsed INFORMATIONAL request \d+ \[ \]", 5)
    log.wait_log(r"parsed INFORMATIONAL response \d+ \[ \]", 5)
    pair.assert_echo()


@pytest.mark.parametrize("role", ROLES)
def test_strongswan_notices_that_we_are_gone(nats, role):
    pair = Pair(
        nats,
        role,
        connection={"dpd_delay": "1s"},
        retransmit_timeout=0.5,
        extra="retransmit_tries = 2",
    )
    pair.ours.agent.kill()
    pair.strongswan.wait_down(20)


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_we_notice_that_strongswan_is_gone(nats, role):
    pair = Pair(nats, role, more="liveness_seconds = 1\n")
    pair.strongswan.charon.kill()
    pair.ours.wait_down(90)
    assert pair.ours.agent.is_running


@pytest.mark.parametrize("role", ROLES)
def test_wrong_psk_has_a_clear_end(nats, role):
    """Nothing comes up, the daemon goes on and says why."""
    places = {"initiator": (nats.operator, "alice"), "responder": (nats.server, "bob")}
    (our_host, our_name) = places.pop(role)
    ((host, name),) = places.values()
    ours = direct_ours(
        our_host,
        nats.lab.folder / our_name,
        our_name,
        auth="psk",
        initiates=role == "initiator",
    )
    config = ours.agent.layout.config
    config.write_text(config.read_text().replace('psk = "peer-', 'psk = "wrong-'))
    strongswan = direct_strongswan(
        host, nats.lab.folder / name, name, auth="psk", initiates=role == "responder"
    )
    ours.start()
    strongswan.start()
    if role == "initiator":
        done = ours.agent.cli("connect", "peer", check=False)
        assert done.returncode != 0
        assert "authentic" in (done.stdout + done.stderr).lower(), done.stderr
        assert "Traceback" not in done.stderr
    else:
        with pytest.raises(Exception, match="initiate"):
            strongswan.connect()
        strongswan.charon.wait_log("AUTHENTICATION_FAILED")
    assert not strongswan.charon.children("peer")
    assert ours.agent.is_running
    assert "Traceback" not in ours.log
