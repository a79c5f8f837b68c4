"""tshark reads each way in which two sides prove who they are: keys, certificates, RFC 4754.

As test_oracle, with what stands in CERT, CERTREQ and AUTH.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from agent.crypto.digest import sha256
from agent.crypto.public_keys import AnyPublicKey
from agent.crypto.signatures import ECDSA, RSA_PKCS1, RSA_PSS, KeyKind
from agent.datagram import Address, Path
from agent.ike.pad import AnyKeyAuth
from tests.sim.test_oracle import OUTER, PORT, Scene, Stage, briefly, judge, ordinary
from tests.support.certificates import AT
from tests.support.feature_scenes import Before7427, certified
from tests.support.keys import private_key

if TYPE_CHECKING:
    from agent.crypto.signatures import Scheme

CERT = ("Certificate (37)", "Certificate Request (38)")
RAW = "RESERVED to IANA (15)"
CURVES = [KeyKind.P256, KeyKind.P384, KeyKind.P521]


def _keys(kind: KeyKind, *, in_band: bool = False) -> dict[str, dict[str, Any]]:
    """How a and b see each other where each has a key of this kind that the other has pinned."""
    keys = {name: private_key(kind, name) for name in "ab"}

    def pinned(name: str) -> AnyKeyAuth:
        spki = keys[name].spki
        return AnyKeyAuth(sha256=sha256(spki), key=None if in_band else AnyPublicKey(spki))

    return {
        "a": {"local_auth": keys["a"], "remote_auth": pinned("b")},
        "b": {"local_auth": keys["b"], "remote_auth": pinned("a")},
    }


def before_rfc_7427(s: Stage) -> None:
    """The initiator announces no hashes; up, an echo, down."""
    path = Path(*(Address.parse(OUTER[name], PORT) for name in "ab"))
    s.do(lambda now: s.a.engine._ike.connect(s.a.peer, path, now, (Before7427(),)))
    s.echo()
    s.do(lambda now: s.a.engine._ike.close(s.a.sas[0].ike_id, now))
    assert not s.b.sas


def _certified(kind: KeyKind) -> Scene:
    """A certificate, the CA between it and the anchor; with RSA they come in fragments."""
    is_long = kind is KeyKind.RSA
    return Scene(
        f"certificates of {kind.value}",
        briefly if is_long else ordinary,  # tshark takes fragments of two IKE SAs for one message
        (*CERT, "Digital Signature (14)", *(["Fragment (53)"] if is_long else [])),
        # One proposal alone would leave no room for a CERTREQ in the answer.
        ike=("aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-x25519"),
        options={"wall": lambda: AT},
        **certified(kind),
    )


SCENES = [
    *map(_certified, KeyKind),
    *(
        Scene(f"{kind.value} by RFC 4754", before_rfc_7427, (f"({method})",), **_keys(kind))
        for method, kind in enumerate(CURVES, 9)
    ),
]


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_tshark_reads_every_proof(tmp_path, scene):
    judge(tmp_path, scene)


@pytest.mark.parametrize("kind", KeyKind, ids=lambda kind: kind.name)
def test_raw_keys_in_band(tmp_path, kind: KeyKind):
    """RFC 7670: tshark reads what is around the key, openssl the key."""
    keys = _keys(kind, in_band=True)
    scene = Scene(kind.value, briefly, CERT, unnamed=frozenset({RAW}), **keys)
    frames = "".join(judge(tmp_path, scene).ike)
    for name in "ab":
        spki = keys[name]["local_auth"].spki
        shown = rf"Payload length: {5 + len(spki)}\n *Certificate Encoding: [^\n]*\(15\)\n"
        assert len(re.findall(shown, frames)) == 2
        argv = ["openssl", "pkey", "-pubin", "-inform", "DER", "-outform", "DER"]
        assert subprocess.run(argv, input=spki, capture_output=True, check=True).stdout == spki


SCHEMES = [
    *zip(CURVES, ECDSA, strict=True),
    *((KeyKind.RSA, scheme) for scheme in (*RSA_PSS, *RSA_PKCS1)),
]


@pytest.mark.parametrize(("kind", "scheme"), SCHEMES, ids=[scheme.name for _, scheme in SCHEMES])
def test_tshark_reads_every_signature(tmp_path, kind: KeyKind, scheme: Scheme, monkeypatch):
    monkeypatch.setattr("agent.ike.proof.choose", lambda *arguments: scheme)
    shows = ("Digital Signature (14)",)
    verdict = judge(tmp_path, Scene(scheme.name, briefly, shows, **_keys(kind)))
    # tshark prints 36 octets at most; the first hash of RSASSA-PSS stands in them.
    said = f"ASN.1 Data: {scheme.algorithm.hex()[:72]}"
    assert "".join(verdict.ike).count(said) == 2
