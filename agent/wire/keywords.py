"""strongSwan's words for algorithms, as configurations and `status` spell them.

The table holds what this project offers (RFC 8247, RFC 8221: nothing there that is MUST NOT or
SHOULD NOT); a word that strongSwan knows and we refuse is in `REFUSED`, with the reason.
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
    "chacha20poly1305": Keyword(_ENCR, EncryptionId.ENCR_CHACHA20_POLY1305),
    "aes128": Keyword(_ENCR, EncryptionId.ENCR_AES_CBC, 128),
    "aes256": Keyword(_ENCR, EncryptionId.ENCR_AES_CBC, 256),
    "aes": Keyword(_ENCR, EncryptionId.ENCR_AES_CBC, 128),
    "sha256": Keyword(_INTEG, IntegrityId.AUTH_HMAC_SHA2_256_128),
    "sha2_256": Keyword(_INTEG, IntegrityId.AUTH_HMAC_SHA2_256_128),
    "prfsha256": Keyword(_PRF, PrfId.PRF_HMAC_SHA2_256),
    "prfsha384": Keyword(_PRF, PrfId.PRF_HMAC_SHA2_384),
    "prfsha512": Keyword(_PRF, PrfId.PRF_HMAC_SHA2_512),
    "x25519": Keyword(_KE, KeyExchangeId.CURVE25519),
    "curve25519": Keyword(_KE, KeyExchangeId.CURVE25519),
    "ecp256": Keyword(_KE, KeyExchangeId.ECP_256),
    "modp2048": Keyword(_KE, KeyExchangeId.MODP_2048),
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

_WEAK = "must not be used any more (RFC 8247, RFC 8221)"
REFUSED: dict[str, str] = dict.fromkeys(
    (
        *("des", "3des", "blowfish", "blowfish128", "blowfish256", "cast128", "null"),
        *("md5", "md5_128", "sha", "sha1", "sha1_160", "prfmd5", "prfsha1"),
        *("modp768", "modp1024", "modp1536", "modp1024s160", "modp2048s224", "modp2048s256"),
        *("ecp192", "ecp224"),
    ),
    _WEAK,
)
REFUSED["mlkem512"] = "is not in the cryptography package; take mlkem768"
REFUSED.update({f"ke{n}_mlkem512": REFUSED["mlkem512"] for n in range(1, 8)})

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
