"""Every algorithm of ours against strongSwan 5.9.8, as initiator and as responder.

Each word of ours stands at least once for IKE and once for ESP. One tunnel a line: the IKE SA, an
echo each way, then a rekeyed Child SA with a key exchange of its own where one is named, and
another echo. Not here: extended sequence numbers, which strongSwan's userspace ESP
(kernel-libipsec) does not do.
"""

from __future__ import annotations

import pytest

from agent.wire.codes import ProtocolId, TransformType
from agent.wire.keywords import WORDS
from agent.wire.proposals import parse_proposals
from tests.interop.ends import Suite
from tests.interop.test_direct import ROLES, Pair

SUITES = [
    Suite(ike="aes128ccm16-prfsha256-ecp384", esp="aes256-sha384-ecp384"),
    Suite(ike="aes256ccm16-prfsha384-modp3072", esp="aes256-sha512-modp3072"),
    Suite(ike="aes128ccm8-prfsha512-ecp521", esp="aes128-sha512-ecp521"),
    Suite(ike="aes256ccm8-prfsha256-modp4096", esp="aes128-sha384-modp4096"),
    Suite(ike="aes256-sha384-ecp384", esp="aes128ccm16-x25519"),
    Suite(ike="aes256-sha512-ecp521", esp="aes256ccm16-ecp256"),
    Suite(ike="aes128-sha384-prfsha512-x25519", esp="aes128ccm8-modp2048"),
    Suite(ike="aes256gcm16-prfsha384-ecp256", esp="aes256ccm8"),
    Suite(ike="aes128gcm16-sha512-modp2048", esp="aes256gcm16"),
    Suite(ike="chacha20poly1305-sha384-x25519", esp="chacha20poly1305"),
    Suite(ike="aes128ccm8-prfaesxcbc-x25519", esp="aes128-sha256-noesn"),
    Suite(ike="aes128-sha256-prfaescmac-x25519", esp="aes128gcm16"),
]
suites = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.ike} {suite.esp}")


def test_no_word_is_left_out():
    ike, esp = (
        {
            (t.type, t.id, t.key_length)
            for text in texts
            for proposal in parse_proposals([text], protocol)
            for t in proposal.transforms
        }
        for texts, protocol in (
            ([s.ike for s in SUITES], ProtocolId.IKE),
            ([s.esp for s in SUITES], ProtocolId.ESP),
        )
    )
    assert {WORDS[k] for k in WORDS if k not in ike and k.type != TransformType.ESN} == set()
    left = {WORDS[k] for k in WORDS if k not in esp and k.type != TransformType.PRF}
    assert left == {"esn"}


@pytest.mark.netns
@pytest.mark.strongswan
@suites
@pytest.mark.parametrize("role", ROLES)
def test_suite(nats, role, suite):
    pair = Pair(nats, role, suite=suite)
    pair.assert_echo()
    before = pair.spis("child")
    pair.ours.rekey("child")
    pair.wait_rekeyed("child", before)
    pair.assert_echo()
    log = pair.ours.log
    assert "Traceback" not in log, log
