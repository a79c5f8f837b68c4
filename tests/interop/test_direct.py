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
    Suite,
    assert_echo,
    direct_ours,
    direct_strongswan,
)

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

ROLES = ["initiator", "responder"]


class Pair:
    """We and strongSwan; `role` is ours."""

    def __init__(
        self,
        nats,
        role,
        *,
        auth="ed25519",
        suite=GCM,
        more="",
        dynamic=False,
        arguments=(),
        wait=15.0,
        **strongswan,
    ) -> None:
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
            dynamic=dynamic,
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
        self.ours.start(*arguments)
        self.strongswan.start()
        self.initiator.connect()
        for end in (self.ours, self.strongswan):
            end.wait_up(wait)

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


@pytest.mark.parametrize(
    "suite",
    [
        Suite(ike="aes128gcm16-prfsha256-x25519", esp="aes256gcm16"),
        Suite(ike="aes256gcm16-prfsha384-ecp256", esp="chacha20poly1305"),
        Suite(ike="chacha20poly1305-prfsha512-modp2048", esp="aes256-sha256"),
        Suite(ike="aes256-sha256-modp2048", esp="aes128gcm16"),
    ],
    ids=lambda suite: f"{suite.ike} {suite.esp}",
)
@pytest.mark.parametrize("role", ROLES)
def test_other_suites(nats, role, suite):
    Pair(nats, role, suite=suite).assert_echo()


@pytest.mark.parametrize("role", ROLES)
def test_a_wrong_guess_of_the_group_is_put_right(nats, role):
    """INVALID_KE_PAYLOAD: the initiator begins with ECP-256, the responder wants X25519."""
    both = "aes128-sha256-ecp256", "aes128-sha256-x25519"
    if role == "initiator":
        more, connection = "", {}
        ours = Suite(ike='", "'.join(both))
        pair = Pair(nats, role, suite=ours, more=more, connection={"proposals": both[1]})
        pair.strongswan.charon.wait_log(r"N\(INVAL_KE\)")
    else:
        connection = {"proposals": ",".join(both)}
        pair = Pair(nats, role, suite=Suite(ike=both[1]), connection=connection)
        pair.strongswan.charon.wait_log(r"peer didn't accept key exchange method|N\(INVAL_KE\)")
    pair.assert_echo()


@pytest.mark.parametrize("role", ROLES)
def test_traffic_selectors_are_narrowed(nats, role):
    """strongSwan offers or accepts a whole network, we one address of it."""
    pair = Pair(nats, role, child={"remote_ts": "10.99.0.0/16"})
    child = pair.strongswan.charon.children("peer")[0]
    assert child["remote-ts"] == [f"{INNER[pair.ours.name]}/32"]
    pair.assert_echo()


def test_we_get_a_virtual_address(nats):
    pools = {"pools": {"virtual": {"addrs": "10.98.0.7/32"}}}
    pair = Pair(
        nats,
        "initiator",
        more="virtual_ip = true\n",
        connection={"pools": "virtual"},
        child={"remote_ts": "dynamic"},
        sections=pools,
        dynamic=True,
    )
    assert pair.strongswan.host.ping("10.98.0.7")
    assert pair.ours.host.ping(INNER["bob"])


def test_we_hand_out_a_virtual_address(nats):
    pair = Pair(
        nats,
        "responder",
        more='assign = ["10.98.0.8"]\n',
        connection={"vips": "0.0.0.0"},
        child={"local_ts": "dynamic"},
        dynamic=True,
    )
    assert pair.ours.host.ping("10.98.0.8")
    assert pair.strongswan.host.ping(INNER["bob"])


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
def test_we_ask_whether_strongswan_lives(nats, role):
    pair = Pair(nats, role, more="liveness_seconds = 1\n")
    log = pair.strongswan.charon
    log.wait_log(
        r"parsed INFORMATIONAL request \d+ \[ \](.|\n)*?generating INFORMATIONAL response", 5
    )
    pair.assert_echo()


@pytest.mark.parametrize("role", ROLES)
def test_we_answer_that_we_live(nats, role):
    pair = Pair(nats, role, connection={"dpd_delay": "1s"})
    pair.strongswan.charon.wait_log(r"parsed INFORMATIONAL response \d+ \[ \]", 5)
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
def test_we_notice_that_strongswan_is_gone(nats):
    """Takes the time that retransmissions take before they are given up."""
    pair = Pair(nats, "initiator", more="liveness_seconds = 1\n")
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
        assert "did not prove" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    else:
        with pytest.raises(Exception, match="initiate"):
            strongswan.connect()
        strongswan.charon.wait_log("AUTHENTICATION_FAILED")
    assert not strongswan.charon.children("peer")
    assert ours.agent.is_running
    assert "Traceback" not in ours.log


def test_strongswan_wants_the_proof_repeated(nats):
    """RFC 4478: it says for how long; the new IKE SA is there before the old one goes."""
    pair = Pair(
        nats,
        "initiator",
        more="virtual_ip = true\n",
        # Only then it leaves that to us.
        connection={"pools": "virtual", "reauth_time": "13s", "rekey_time": "0", "over_time": "9s"},
        child={"remote_ts": "dynamic"},
        sections={"pools": {"virtual": {"addrs": "10.98.0.7/32"}}},
        dynamic=True,
    )
    assert "N(AUTH_LFT)" in pair.strongswan.log
    before = pair.spis("ike")
    pair.strongswan.charon.wait_log(r"IKE_SA peer\[2\] established", 20)
    pair.wait_rekeyed("ike", before)
    assert pair.strongswan.host.ping("10.98.0.7", seconds=3.0)


def test_we_want_the_proof_repeated(nats):
    pair = Pair(
        nats,
        "responder",
        more="auth_seconds = 3600\n",
        connection={"over_time": "3597s", "rekey_time": "14400s"},
    )
    pair.strongswan.charon.wait_log(r"received AUTH_LIFETIME of 3600s", 10)
    pair.strongswan.charon.wait_log(r"IKE_SA peer\[2\] established", 20)
    pair.ours.wait_up()
    pair.assert_echo()
