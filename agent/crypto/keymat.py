"""From a shared secret to the keys of an SA: RFC 7296 §2.13, §2.14, §2.17, §2.18.

    SKEYSEED = prf(Ni | Nr, g^ir)                        first IKE SA
    SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr)     rekeyed IKE SA, prf of the old SA;
                                                         each round of RFC 9370 §2.2.2
    SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr)   resumed IKE SA (RFC 5723 §5.1)
    {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)
    KEYMAT   = prf+(SK_d, g^ir (new, if any) | Ni | Nr)  Child SA

RFC 9370 §2.2.4: the secrets of additional key exchanges come behind Nr in the last two.

`i` and `r` are always the initiator and responder of the exchange that carries the nonces. In the
first line `Prf.nonce_key` cuts them for AES-XCBC and AES-CMAC (§2.14); nowhere else.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from agent.crypto.algorithms import prf_plus
from agent.records import record

if TYPE_CHECKING:
    from agent.crypto.algorithms import Prf


def skeyseed(prf: Prf, nonces: bytes, shared: bytes) -> bytes:
    """Of a first IKE SA; `nonces` is what `Prf.nonce_key` makes of Ni and Nr."""
    return prf(nonces, shared)


def rekeyed_skeyseed(
    prf: Prf, sk_d: bytes, shared: bytes, ni: bytes, nr: bytes, additional: bytes = b""
) -> bytes:
    """Of a rekeyed IKE SA: `prf` and `sk_d` are those of the *old* SA (§2.18)."""
    return prf(sk_d, shared + ni + nr + additional)


def resumed_skeyseed(prf: Prf, sk_d: bytes, ni: bytes, nr: bytes) -> bytes:
    """Of a resumed IKE SA: `prf` and `sk_d` are those that the ticket stands for."""
    return prf(sk_d, b"Resumption" + ni + nr)


@record(frozen=True, slots=True, kw_only=True)
class IkeKeys:
    """The keys of an IKE SA. With an AEAD `sk_a*` are empty and `sk_e*` end with the salt."""

    sk_d: bytes = field(repr=False)
    sk_ai: bytes = field(repr=False)
    sk_ar: bytes = field(repr=False)
    sk_ei: bytes = field(repr=False)
    sk_er: bytes = field(repr=False)
    sk_pi: bytes = field(repr=False)
    sk_pr: bytes = field(repr=False)


@record(frozen=True, slots=True, kw_only=True)
class ChildKeys:
    """The keys of a pair of Child SAs; `_i` protects what the exchange's initiator sends, §2.17."""

    encr_i: bytes = field(repr=False)
    integ_i: bytes = field(repr=False)
    encr_r: bytes = field(repr=False)
    integ_r: bytes = field(repr=False)


def _cut(material: bytes, *lengths: int) -> list[bytes]:
    """Consecutive pieces of these lengths."""
    pieces = []
    start = 0
    for length in lengths:
        pieces.append(material[start : start + length])
        start += length
    return pieces


def derive_ike_keys(
    prf: Prf,
    seed: bytes,
    *,
    ni: bytes,
    nr: bytes,
    spi_i: bytes,
    spi_r: bytes,
    encr_length: int,
    integ_length: int,
) -> IkeKeys:
    """All keys of an IKE SA from its SKEYSEED. Lengths in octets, as `key_lengths` says."""
    d = prf.preferred_key_length
    lengths = (d, integ_length, integ_length, encr_length, encr_length, d, d)
    material = prf_plus(prf, seed, ni + nr + spi_i + spi_r, sum(lengths))
    sk_d, sk_ai, sk_ar, sk_ei, sk_er, sk_pi, sk_pr = _cut(material, *lengths)
    return IkeKeys(
        sk_d=sk_d, sk_ai=sk_ai, sk_ar=sk_ar, sk_ei=sk_ei, sk_er=sk_er, sk_pi=sk_pi, sk_pr=sk_pr
    )


def mix_ppk(prf: Prf, ppk: bytes, keys: IkeKeys) -> IkeKeys:
    """`keys` of a first IKE SA with the postquantum preshared key `ppk` in them (RFC 8784 §3)."""
    sk_d, sk_pi, sk_pr = (
        prf_plus(prf, ppk, key, len(key)) for key in (keys.sk_d, keys.sk_pi, keys.sk_pr)
    )
    return replace(keys, sk_d=sk_d, sk_pi=sk_pi, sk_pr=sk_pr)


def child_keymat(
    prf: Prf,
    sk_d: bytes,
    shared: bytes,
    ni: bytes,
    nr: bytes,
    length: int,
    additional: bytes = b"",
) -> bytes:
    """`length` octets of KEYMAT; `shared` is empty without a key exchange of its own."""
    return prf_plus(prf, sk_d, shared + ni + nr + additional, length)


def derive_child_keys(
    prf: Prf,
    sk_d: bytes,
    *,
    shared: bytes = b"",
    ni: bytes,
    nr: bytes,
    encr_length: int,
    integ_length: int,
    additional: bytes = b"",
) -> ChildKeys:
    """KEYMAT cut into the keys of both directions. Lengths in octets, as `key_lengths` says."""
    lengths = (encr_length, integ_length, encr_length, integ_length)
    material = child_keymat(prf, sk_d, shared, ni, nr, sum(lengths), additional)
    encr_i, integ_i, encr_r, integ_r = _cut(material, *lengths)
    return ChildKeys(encr_i=encr_i, integ_i=integ_i, encr_r=encr_r, integ_r=integ_r)
