"""Who is who, with strongSwan 5.9.8 in both roles: keys of every kind, certificates, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.crypto.signatures import KeyKind
from tests.interop.ends import (
    GCM,
    INNER,
    OTHER,
    SERVER,
    OurEnd,
    StrongswanEnd,
    Suite,
    assert_echo,
    identity,
)
from tests.lab.charon import PLUGINS, Charon
from tests.lab.vici import ViciError
from tests.support.certificates import Issued, issue, subject_text
from tests.support.keys import private_key_pem, public_key_pem

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

ROLES = ["initiator", "responder"]
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
VALID = {"begins": NOW - DAY, "ends": NOW + DAY}
OVER = {"begins": NOW - 2 * DAY, "ends": NOW - DAY}
PSS = "RSA_EMSA_PSS_SHA2_256_SALT_32"
# What strongSwan needs for paths with more than one CA.
WITH_X509 = PLUGINS + " x509 constraints"


@dataclass
class Both:
    """We and strongSwan, `role` being ours."""

    ours: OurEnd
    strongswan: StrongswanEnd
    initiator: OurEnd | StrongswanEnd

    def up(self) -> None:
        """A tunnel, and an echo each way."""
        self.initiator.connect()
        for end in (self.ours, self.strongswan):
            end.wait_up()
        assert_echo(self.ours, self.strongswan)
        assert "Traceback" not in self.ours.log


def both(
    nats: Any,
    role: str,
    *,
    our_lines: str,
    our_files: dict[str, bytes],
    their_local: dict[str, Any],
    their_remote: dict[str, Any],
    their_files: dict[str, bytes],
    our_id: str = "",
    extra: str = "",
    arguments: tuple[str, ...] = (),
    suite: Suite = GCM,
    newer: bool = False,
) -> Both:
    """Both running, we with these `arguments`; the initiator is behind a NAT."""
    places = {"initiator": (nats.operator, "alice"), "responder": (nats.server, "bob")}
    (our_host, our_name) = places.pop(role)
    ((host, name),) = places.values()
    address = f'address = "{SERVER}"\n' if role == "initiator" else ""
    ours = OurEnd(
        our_host,
        nats.lab.folder / our_name,
        our_name,
        f'[peer.peer]\n{address}id = "{identity(name)}"\n'
        f'local_id = "{our_id or identity(our_name)}"\n'
        f'proposals = ["{suite.ike}"]\nesp_proposals = ["{suite.esp}"]\n'
        f'local_ts = ["{INNER[our_name]}/32"]\nremote_ts = ["{INNER[name]}/32"]\n{our_lines}',
    )
    for file, content in our_files.items():
        (ours.agent.layout.config.parent / file).write_bytes(content)
    connection = {
        "local": {"auth": "pubkey", "id": identity(name), **their_local},
        "remote": {"auth": "pubkey", "id": our_id or identity(our_name), **their_remote},
        "children": {
            "peer": {
                "local_ts": f"{INNER[name]}/32",
                "remote_ts": f"{INNER[our_name]}/32",
                "esp_proposals": suite.esp,
            }
        },
        "version": 2,
        "mobike": False,
        "proposals": suite.ike,
        **({"remote_addrs": SERVER} if role == "responder" else {}),
    }
    charon = Charon(
        host,
        nats.lab.folder / name,
        {"connections": {"peer": connection}},
        files=their_files,
        extra=extra,
        plugins=WITH_X509,
        newer=newer,
    )
    strongswan = StrongswanEnd(host, charon, name)
    ours.start(*arguments)
    strongswan.start()
    return Both(ours, strongswan, ours if role == "initiator" else strongswan)


# -- pinned keys ---------------------------------------------------------------------------------


def with_keys(nats: Any, role: str, kind: KeyKind, **options: Any) -> Both:
    return both(
        nats,
        role,
        our_lines='key_file = "theirs.pem"\nlocal_key_file = "ours.key"\n',
        our_files={
            "theirs.pem": public_key_pem(kind, "theirs"),
            "ours.key": private_key_pem(kind, "ours"),
        },
        their_local={"pubkeys": "theirs"},
        their_remote={"pubkeys": "ours"},
        their_files={
            "private/theirs": private_key_pem(kind, "theirs"),
            "pubkey/theirs": public_key_pem(kind, "theirs"),
            "pubkey/ours": public_key_pem(kind, "ours"),
        },
        **options,
    )


@pytest.mark.parametrize(
    ("kind", "extra", "theirs", "ours"),
    [
        (KeyKind.P256, "", "ECDSA_WITH_SHA256_DER", "ECDSA_WITH_SHA256_DER"),
        (KeyKind.P384, "", "ECDSA_WITH_SHA384_DER", "ECDSA_WITH_SHA384_DER"),
        (KeyKind.P521, "", "ECDSA_WITH_SHA512_DER", "ECDSA_WITH_SHA512_DER"),
        (KeyKind.RSA, "rsa_pss = yes", PSS, PSS),
        (KeyKind.RSA, "", "RSA_EMSA_PKCS1_SHA2_256", ""),
    ],
    ids=["P-256", "P-384", "P-521", "RSA-PSS", "RSA PKCS1"],
)
@pytest.mark.parametrize("role", ROLES)
def test_keys(nats, role, kind, extra, theirs, ours):
    pair = with_keys(nats, role, kind, extra=extra)
    pair.up()
    log = pair.strongswan.log
    assert f"(myself) with {theirs} successful" in log, log
    # To an RSA key that signs by PKCS #1 we answer alike; calling ourselves we begin with PSS.
    ours = ours or {"initiator": PSS, "responder": theirs}[role]
    assert f"with {ours} successful" in log.replace("(myself) with", ""), log


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        (KeyKind.P256, "initiator"),
        (KeyKind.P256, "responder"),
        (KeyKind.P384, "initiator"),
        (KeyKind.P521, "responder"),
    ],
)
def test_without_rfc_7427(nats, role, kind):
    """RFC 4754: strongSwan announces no hashes."""
    pair = with_keys(nats, role, kind, extra="signature_authentication = no")
    pair.up()
    bits = kind.name.removeprefix("P")
    assert f"ECDSA-{bits} signature successful" in pair.strongswan.log, pair.strongswan.log


# -- certificates --------------------------------------------------------------------------------


def with_certificates(
    nats: Any,
    role: str,
    kind: KeyKind,
    *,
    theirs: dict[str, Any] | None = None,
    ours: dict[str, Any] | None = None,
    their_root: Issued | None = None,
    **options: Any,
) -> Both:
    """Each side with a CA of its own between its certificate and the root."""
    our_name = "alice" if role == "initiator" else "bob"
    root = issue("root", kind=kind, **VALID)
    one = issue("their ca", their_root or root, kind=kind, ca=True, **VALID)
    two = issue("our ca", root, kind=kind, ca=True, **VALID)
    their_end, our_end = (
        issue(name, ca, kind=kind, **{**VALID, "names": (identity(name),), **(more or {})})
        for name, ca, more in ((OTHER[our_name], one, theirs), (our_name, two, ours))
    )
    return both(
        nats,
        role,
        our_lines='ca_files = "root.pem"\nlocal_key_file = "ours.key"\n'
        'local_certificate_files = ["ours.pem", "our_ca.pem"]\n',
        our_files={
            "root.pem": root.pem,
            "ours.key": our_end.key_pem,
            "ours.pem": our_end.pem,
            "our_ca.pem": two.pem,
        },
        their_local={"certs": "theirs.pem"},
        their_remote={"cacerts": "root.pem"},
        their_files={
            "private/theirs": their_end.key_pem,
            "x509/theirs.pem": their_end.pem,
            "x509ca/their_ca.pem": one.pem,
            "x509ca/root.pem": root.pem,
            **({"x509ca/other.pem": their_root.pem} if their_root else {}),
        },
        **options,
    )


@pytest.mark.parametrize(
    ("kind", "extra"),
    [(KeyKind.P256, ""), (KeyKind.P521, ""), (KeyKind.RSA, "rsa_pss = yes")],
    ids=["P-256", "P-521", "RSA-PSS"],
)
@pytest.mark.parametrize("role", ROLES)
def test_certificates(nats, role, kind, extra):
    """RSA's chains do not fit into one datagram: fragments both ways."""
    pair = with_certificates(nats, role, kind, extra=extra)
    pair.up()
    log = pair.strongswan.log
    assert "CERTREQ" in log
    assert "sending issuer cert" in log, log
    if kind is KeyKind.RSA:
        assert "splitting IKE message" in log
        assert "reassembled fragmented IKE message" in log


@pytest.mark.parametrize("role", ROLES)
def test_our_name_is_the_subject_of_our_certificate(nats, role):
    our_name = "alice" if role == "initiator" else "bob"
    with_certificates(nats, role, KeyKind.P256, our_id=subject_text(our_name)).up()


# -- refusals ------------------------------------------------------------------------------------


def not_up(pair: Both, role: str) -> str:
    """Nothing comes up and everybody goes on; what our side says if it called."""
    said = ""
    if role == "initiator":
        done = pair.ours.agent.cli("connect", "peer", check=False)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        said = done.stderr
    else:
        with pytest.raises(ViciError):
            pair.strongswan.connect()
    assert not pair.strongswan.charon.children("peer")
    assert pair.ours.agent.is_running
    assert "Traceback" not in pair.ours.log
    return said


@pytest.mark.parametrize("role", ROLES)
def test_strongswan_under_another_ca(nats, role):
    pair = with_certificates(nats, role, KeyKind.P256, their_root=issue("other", **VALID))
    said = not_up(pair, role)
    if role == "initiator":
        assert "no CA that is trusted here" in said, said
    else:
        pair.strongswan.charon.wait_log("AUTHENTICATION_FAILED|N\\(AUTH_FAILED\\)")


@pytest.mark.parametrize("role", ROLES)
def test_strongswan_with_a_certificate_that_is_over(nats, role):
    pair = with_certificates(nats, role, KeyKind.P256, theirs=OVER)
    said = not_up(pair, role)
    if role == "initiator":
        assert f"ended on {OVER['ends']:%Y-%m-%d %H:%M}" in said, said
    else:
        pair.strongswan.charon.wait_log("AUTHENTICATION_FAILED|N\\(AUTH_FAILED\\)")
        assert "peer was not let in: the certificate of" in pair.ours.log
        assert "ended on" in pair.ours.log


@pytest.mark.parametrize("role", ROLES)
def test_ours_that_is_over(nats, role):
    pair = with_certificates(nats, role, KeyKind.P256, ours=OVER)
    not_up(pair, role)
    assert "subject certificate invalid" in pair.strongswan.log, pair.strongswan.log


@pytest.mark.parametrize("role", ROLES)
def test_the_certificate_of_somebody_else(nats, role):
    """strongSwan would sign with a key that is certified, for another name."""
    pair = with_certificates(nats, role, KeyKind.P256, theirs={"names": ("eve@example.org",)})
    not_up(pair, role)
