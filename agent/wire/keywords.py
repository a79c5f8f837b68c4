"""strongSwan's words for algorithms, as configurations and `status` spell them.

The table holds what this project offers (RFC 8247, RFC 8221: nothing there that is MUST NOT or
SHOULD NOT); a word that strongSwan knows and we refuse for its weakness is in `REFUSED`, with the
algorithm, the RFC that says so and what to use instead.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.wire.codes import EncryptionId, EsnId, IntegrityId, KeyExchangeId, PrfId, TransformType


class Keyword(NamedTuple):
    """What a word stands for; `key_length` in bits where the transform has that attribute."""

    type: TransformType
    id: int
    key_length: int | None = None


_ENCR, _INTEG, _PRF, _KE = (
    TransformType.ENCR,
    TransformType.INTEG,
    TransformType.PRF,
    TransformType.KE,
)

# The first word of a transform is the one that is printed.
KEYWORDS: dict[str, Keyword] = {
    "aes128gcm16": Keyword(_ENCR, EncryptionId.ENCR_AES_GCM_16, 128),
    "aes256gcm16": Keyword(_ENCR, EncryptionId.ENCR_AES_GCM_16, 256),
    "aes128gcm128": Keyword(_ENCR, EncryptionId.ENCR_AES_GCM_16, 128),
    "aes256gcm128": Keyword(_ENCR, EncryptionId.ENCR_AES_GCM_16, 256),
    "aes128ccm16": Keyword(_ENCR, EncryptionId.ENCR_AES_CCM_16, 128),
    "aes256ccm16": Keyword(_ENCR, EncryptionId.ENCR_AES_CCM_16, 256),
    "aes128ccm128": Keyword(_ENCR, EncryptionId.ENCR_AES_CCM_16, 128),
    "aes256ccm128": Keyword(_ENCR, EncryptionId.ENCR_AES_CCM_16, 256),
    "aes128ccm8": Keyword(_ENCR, EncryptionId.ENCR_AES_CCM_8, 128),
    "aes256ccm8": Keyword(_ENCR, EncryptionId.ENCR_AES_CCM_8, 256),
    "aes128ccm64": Keyword(_ENCR, EncryptionId.ENCR_AES_CCM_8, 128),
    "aes256ccm64": Keyword(_ENCR, EncryptionId.ENCR_AES_CCM_8, 256),
    "chacha20poly1305": Keyword(_ENCR, EncryptionId.ENCR_CHACHA20_POLY1305),
    "aes128": Keyword(_ENCR, EncryptionId.ENCR_AES_CBC, 128),
    "aes256": Keyword(_ENCR, EncryptionId.ENCR_AES_CBC, 256),
    "aes": Keyword(_ENCR, EncryptionId.ENCR_AES_CBC, 128),
    "sha256": Keyword(_INTEG, IntegrityId.AUTH_HMAC_SHA2_256_128),
    "sha2_256": Keyword(_INTEG, IntegrityId.AUTH_HMAC_SHA2_256_128),
    "sha384": Keyword(_INTEG, IntegrityId.AUTH_HMAC_SHA2_384_192),
    "sha2_384": Keyword(_INTEG, IntegrityId.AUTH_HMAC_SHA2_384_192),
    "sha512": Keyword(_INTEG, IntegrityId.AUTH_HMAC_SHA2_512_256),
    "sha2_512": Keyword(_INTEG, IntegrityId.AUTH_HMAC_SHA2_512_256),
    "prfsha256": Keyword(_PRF, PrfId.PRF_HMAC_SHA2_256),
    "prfsha384": Keyword(_PRF, PrfId.PRF_HMAC_SHA2_384),
    "prfsha512": Keyword(_PRF, PrfId.PRF_HMAC_SHA2_512),
    "prfaesxcbc": Keyword(_PRF, PrfId.PRF_AES128_XCBC),
    "prfaescmac": Keyword(_PRF, PrfId.PRF_AES128_CMAC),
    "x25519": Keyword(_KE, KeyExchangeId.CURVE25519),
    "curve25519": Keyword(_KE, KeyExchangeId.CURVE25519),
    "ecp256": Keyword(_KE, KeyExchangeId.ECP_256),
    "ecp384": Keyword(_KE, KeyExchangeId.ECP_384),
    "ecp521": Keyword(_KE, KeyExchangeId.ECP_521),
    "modp2048": Keyword(_KE, KeyExchangeId.MODP_2048),
    "modp3072": Keyword(_KE, KeyExchangeId.MODP_3072),
    "modp4096": Keyword(_KE, KeyExchangeId.MODP_4096),
    "mlkem768": Keyword(_KE, KeyExchangeId.ML_KEM_768),
    "mlkem1024": Keyword(_KE, KeyExchangeId.ML_KEM_1024),
    "noesn": Keyword(TransformType.ESN, EsnId.NO_ESN),
    "esn": Keyword(TransformType.ESN, EsnId.ESN),
}

# RFC 9370: up to seven further key exchanges, each alternative with the number of its round. With
# ke1_none a peer that does without may share a proposal with one that does not.
ADDITIONAL = tuple(TransformType(t) for t in range(TransformType.ADDKE1, TransformType.ADDKE7 + 1))
KEYWORDS.update(
    {
        f"ke{round_}_{word}": Keyword(kind, id_)
        for round_, kind in enumerate(ADDITIONAL, 1)
        for word, id_ in (
            *((w, k.id) for w, k in tuple(KEYWORDS.items()) if k.type == _KE),
            ("none", KeyExchangeId.NONE),
        )
    }
)

# In an IKE proposal strongSwan takes the PRF from the hash of the integrity algorithm where
# no PRF is named, with an AEAD cipher too (which then has no integrity algorithm of its own).
PRF_OF_HASH: dict[str, PrfId] = {
    "sha256": PrfId.PRF_HMAC_SHA2_256,
    "sha2_256": PrfId.PRF_HMAC_SHA2_256,
    "sha384": PrfId.PRF_HMAC_SHA2_384,
    "sha2_384": PrfId.PRF_HMAC_SHA2_384,
    "sha512": PrfId.PRF_HMAC_SHA2_512,
    "sha2_512": PrfId.PRF_HMAC_SHA2_512,
}
PRF_OF_INTEGRITY: dict[int, PrfId] = {
    IntegrityId.AUTH_HMAC_SHA2_256_128: PrfId.PRF_HMAC_SHA2_256,
    IntegrityId.AUTH_HMAC_SHA2_384_192: PrfId.PRF_HMAC_SHA2_384,
    IntegrityId.AUTH_HMAC_SHA2_512_256: PrfId.PRF_HMAC_SHA2_512,
}

_CIPHERS = "aes128gcm16, aes256gcm16 or chacha20poly1305"
_HASHES = "sha256, sha384 or sha512"
_PRFS = "prfsha256, prfsha384 or prfsha512"
_GROUPS = "x25519, ecp256 or modp2048"
# RFC 8247 and RFC 8221 say MUST- of SHA-1 (still to be had, on its way out); RFC 8221 §5 lets ESP
# go without encryption, which is for machines that need no secrecy: not ours.
_SHA1 = "SHA-1 is on its way out (MUST- in RFC 8247 §2.3 and RFC 8221 §6) and is not offered"
_MD5 = "HMAC-MD5 must not be used (RFC 8247 §2.3, RFC 8221 §6)"
_CAST = "CAST-128 is a cipher of 64 bit blocks that RFC 8247 §2.1 and RFC 8221 §5 do not name"


def _instead(why: str, use: str, words: str) -> dict[str, str]:
    """The same sentence for each of `words`."""
    return dict.fromkeys(words.split(), f"{why}; use {use} instead")


# What strongSwan has a word for and we do not, because it is too weak: why, by which RFC, and what
# to use.
REFUSED: dict[str, str] = {
    **_instead("DES must not be used (RFC 8247 §2.1, RFC 8221 §5)", _CIPHERS, "des"),
    **_instead("3DES should not be used (RFC 8221 §5)", _CIPHERS, "3des"),
    **_instead(
        "Blowfish must not be used (RFC 8221 §5)",
        _CIPHERS,
        "blowfish blowfish128 blowfish192 blowfish256",
    ),
    **_instead(_CAST, _CIPHERS, "cast128"),
    **_instead("encryption must not be left out (RFC 8247 §2.1)", _CIPHERS, "null"),
    **_instead(_MD5, _HASHES, "md5 md5_128"),
    **_instead(_SHA1, _HASHES, "sha sha1 sha1_160"),
    **_instead(
        "HMAC-SHA2-256 cut to 96 bits is no transform of RFC 4868 (RFC 8221 §6)",
        _HASHES,
        "sha256_96 sha2_256_96",
    ),
    **_instead("PRF-HMAC-MD5 must not be used (RFC 8247 §2.2)", _PRFS, "prfmd5"),
    **_instead("PRF-HMAC-SHA1 is on its way out (MUST- in RFC 8247 §2.2)", _PRFS, "prfsha1"),
    **_instead("the 768-bit MODP group must not be used (RFC 8247 §2.4)", _GROUPS, "modp768"),
    **_instead("the 1024-bit MODP group should not be used (RFC 8247 §2.4)", _GROUPS, "modp1024"),
    **_instead("the 1536-bit MODP group should not be used (RFC 8247 §2.4)", _GROUPS, "modp1536"),
    **_instead("group 22 of RFC 5114 must not be used (RFC 8247 §2.4)", _GROUPS, "modp1024s160"),
    **_instead(
        "groups 23 and 24 of RFC 5114 should not be used (RFC 8247 §2.4)",
        _GROUPS,
        "modp2048s224 modp2048s256",
    ),
    **_instead(
        "curves of fewer than 256 bits are weaker than any group of RFC 8247 §2.4",
        _GROUPS,
        "ecp192 ecp224 ecp224bp",
    ),
}
REFUSED["mlkem512"] = "ML-KEM-512 is not in the cryptography package; use mlkem768 instead"
_NO_GROUPS = [word for word in REFUSED if word.startswith(("modp", "ecp", "mlkem"))]
REFUSED.update({f"ke{n}_{word}": REFUSED[word] for n in range(1, 8) for word in _NO_GROUPS})

AEAD: frozenset[int] = frozenset(
    {
        EncryptionId.ENCR_AES_CCM_8,
        EncryptionId.ENCR_AES_CCM_12,
        EncryptionId.ENCR_AES_CCM_16,
        EncryptionId.ENCR_AES_GCM_8,
        EncryptionId.ENCR_AES_GCM_12,
        EncryptionId.ENCR_AES_GCM_16,
        EncryptionId.ENCR_NULL_AUTH_AES_GMAC,
        EncryptionId.ENCR_CAMELLIA_CCM_8,
        EncryptionId.ENCR_CAMELLIA_CCM_12,
        EncryptionId.ENCR_CAMELLIA_CCM_16,
        EncryptionId.ENCR_CHACHA20_POLY1305,
        EncryptionId.ENCR_AES_CCM_8_IIV,
        EncryptionId.ENCR_AES_GCM_16_IIV,
        EncryptionId.ENCR_CHACHA20_POLY1305_IIV,
    }
)


def _first_words() -> dict[Keyword, str]:
    words: dict[Keyword, str] = {}
    for word, keyword in KEYWORDS.items():
        words.setdefault(keyword, word)
    return words


WORDS: dict[Keyword, str] = _first_words()


def word_of(type_: int, id_: int, key_length: int | None) -> str:
    """The word for a transform; a made-up one such as `encr3` where there is none. Cannot fail."""
    for keyword, word in WORDS.items():
        if keyword == (type_, id_, key_length):
            return word
    try:
        kind = TransformType(type_).name.lower()
    except ValueError:
        kind = f"type{int(type_)}_"
    return f"{kind}{int(id_)}" + (f"_{key_length}" if key_length is not None else "")
