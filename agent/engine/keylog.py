"""Keys as lines of Wireshark's tables, for `--keylog`. Nothing else in the house writes a key.

Both kinds of line stand in one file: those of `esp_sa` begin with "IP, those of
`ikev2_decryption_table` with an SPI, what Wireshark has no name for with #. Addresses are left
open (*): the SPI names the SA, and behind a NAT others than ours are seen. An SA with extended
sequence numbers has the two more fields of newer Wireshark, which older ones discard with a
warning; these decrypt it but call each ICV wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.wire.codes import EncryptionId, IntegrityId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.ike.events import IkeKeysDerived, InstallChildSa

HEADER: Final = (
    "# Keys of hearthgate. Whoever has this file reads all traffic that they protected.",
    "# Wireshark takes it as two files of its profile folder:",
    "#   grep -v '^\"IP' THIS > ikev2_decryption_table",
    "#   grep '^\"IP' THIS > esp_sa",
)

_E, _I = EncryptionId, IntegrityId
_IKE_ENCRYPTION: Final = {
    (_E.ENCR_AES_CBC, 128): "AES-CBC-128 [RFC3602]",
    (_E.ENCR_AES_CBC, 256): "AES-CBC-256 [RFC3602]",
    (_E.ENCR_AES_CCM_8, 128): "AES-CCM-128 with 8 octet ICV [RFC5282]",
    (_E.ENCR_AES_CCM_8, 256): "AES-CCM-256 with 8 octet ICV [RFC5282]",
    (_E.ENCR_AES_CCM_16, 128): "AES-CCM-128 with 16 octet ICV [RFC5282]",
    (_E.ENCR_AES_CCM_16, 256): "AES-CCM-256 with 16 octet ICV [RFC5282]",
    (_E.ENCR_AES_GCM_16, 128): "AES-GCM-128 with 16 octet ICV [RFC5282]",
    (_E.ENCR_AES_GCM_16, 256): "AES-GCM-256 with 16 octet ICV [RFC5282]",
}
_IKE_INTEGRITY: Final = {
    0: "NONE [RFC4306]",
    _I.AUTH_HMAC_SHA2_256_128: "HMAC_SHA2_256_128 [RFC4868]",
    _I.AUTH_HMAC_SHA2_384_192: "HMAC_SHA2_384_192 [RFC4868]",
    _I.AUTH_HMAC_SHA2_512_256: "HMAC_SHA2_512_256 [RFC4868]",
}
_ESP_ENCRYPTION: Final = {
    _E.ENCR_AES_CBC: "AES-CBC [RFC3602]",
    _E.ENCR_AES_GCM_16: "AES-GCM with 16 octet ICV [RFC4106]",
    _E.ENCR_CHACHA20_POLY1305: "ChaCha20 with Poly1305 [RFC7634]",  # not in Wireshark 4.0
}
_ESP_INTEGRITY: Final = {
    0: "NULL",
    _I.AUTH_HMAC_SHA2_256_128: "HMAC-SHA-256-128 [RFC4868]",
    _I.AUTH_HMAC_SHA2_384_192: "HMAC-SHA-384-192 [RFC4868]",
    _I.AUTH_HMAC_SHA2_512_256: "HMAC-SHA-512-256 [RFC4868]",
}


def ike_lines(derived: IkeKeysDerived) -> Iterator[str]:
    """The line of an IKE SA."""
    keys = derived.keys
    name = _IKE_ENCRYPTION.get((_E(derived.encr_id), derived.key_bits))
    fields = [
        derived.spis[:8].hex(),
        derived.spis[8:].hex(),
        keys.sk_ei.hex(),
        keys.sk_er.hex(),
        _quoted(name or _unnamed(derived.encr_id)),
        keys.sk_ai.hex(),
        keys.sk_ar.hex(),
        _quoted(_IKE_INTEGRITY[derived.integ_id]),
    ]
    yield ("" if name else "# ") + ",".join(fields)


def esp_lines(order: InstallChildSa) -> Iterator[str]:
    """The two lines of a Child SA, towards us and from us."""
    name = _ESP_ENCRYPTION.get(_E(order.encr_id))
    family = "IPv4" if len(order.path.remote.ip) == 4 else "IPv6"
    for spi, (encr, integ) in ((order.spi_in, order.keys_in), (order.spi_out, order.keys_out)):
        fields = [
            family,
            "*",
            "*",
            "0x" + spi.hex(),
            name or _unnamed(order.encr_id),
            "0x" + encr.hex(),
            _ESP_INTEGRITY[order.integ_id],
            "0x" + integ.hex() if integ else "",
        ]
        if order.esn:
            fields += ["64-bit", "0"]
        yield ("" if name else "# ") + ",".join(map(_quoted, fields))


def _unnamed(encr_id: int) -> str:
    return _E(encr_id).name


def _quoted(text: str) -> str:
    return f'"{text}"'
