"""What tshark 4.6 has no cipher for, opened here and sealed again with one that it has.

ChaCha20-Poly1305 in IKE and AES-CCM in ESP; it opens either in the other. Opening proves the
integrity; what was inside is then tshark's to judge, octet by octet, as with every other suite.
None of our own code takes part: the keys are those of the key log, the ciphers the package's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from tests.support.tshark import NON_ESP_MARKER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agent.datagram import Address

    Datagram = tuple[float, Address, Address, bytes]

IKE_GCM = '"AES-GCM-256 with 16 octet ICV [RFC5282]"'
HEADER, GENERIC, IV = 28, 4, 8
SKF = 53  # payload type of an encrypted fragment (RFC 7383)


class Aead:
    """A cipher of the key log, and AES-GCM under the same octets. `key` ends with the salt."""

    def __init__(self, name: str, key: bytes) -> None:
        self.icv = 8 if "CCM_8" in name else 16
        salt = 3 if "CCM" in name else 4
        self._key, self._salt = key[:-salt], key[-salt:]
        self._cipher = (
            AESCCM(self._key, tag_length=self.icv) if "CCM" in name else ChaCha20Poly1305(self._key)
        )
        self.new_key = self._key + self._salt.ljust(4, b"\0")

    def again(self, iv: bytes, data: bytes, aad: bytes) -> bytes:
        """The same plaintext under AES-GCM. Raises InvalidTag."""
        plain = self._cipher.decrypt(self._salt + iv, data, aad)
        sealed = AESGCM(self._key).encrypt(self.new_key[-4:] + iv, plain, aad)
        return sealed[: len(sealed) - 16 + self.icv]


def recast(datagrams: Iterable[Datagram], lines: Sequence[str]) -> tuple[list[Datagram], list[str]]:
    """Both as tshark can read them: the key log has what it cannot as comments."""
    ike: dict[tuple[bytes, bool], Aead] = {}
    esp: dict[bytes, Callable[[bytes], bytes]] = {}
    new_lines = []
    for line in lines:
        fields = [f.strip('"') for f in re.split(r",(?=\S)", line.removeprefix("# "))]
        if not line.startswith("# "):
            new_lines.append(line)
        elif fields[0].startswith("IP"):
            aead = Aead(fields[4], bytes.fromhex(fields[5][2:]))
            esp[bytes.fromhex(fields[3][2:])] = _esp_change(aead, esn="64-bit" in fields)
            fields[4] = f"AES-GCM with {aead.icv} octet ICV [RFC4106]"
            fields[5] = "0x" + aead.new_key.hex()
            new_lines.append(",".join(f'"{f}"' for f in fields))
        else:
            for spi, key, flag in ((fields[0], fields[2], True), (fields[1], fields[3], False)):
                ike[bytes.fromhex(spi), flag] = Aead(fields[4], bytes.fromhex(key))
            new_lines.append(line.removeprefix("# ").replace(f'"{fields[4]}"', IKE_GCM))
    return [(t, s, d, _again(data, ike, esp)) for t, s, d, data in datagrams], new_lines


def _again(
    data: bytes,
    ike: dict[tuple[bytes, bool], Aead],
    esp: dict[bytes, Callable[[bytes], bytes]],
) -> bytes:
    if data[:4] != NON_ESP_MARKER:
        change = esp.get(data[:4])
        return change(data) if change else data
    message = data[4:]
    by_initiator = bool(message[19] & 0x08)
    aead = ike.get((message[:8] if by_initiator else message[8:16], by_initiator))
    if aead is None or message[16] not in (46, SKF):
        return data
    at = HEADER + GENERIC + (4 if message[16] == SKF else 0)
    aad, iv, body = message[:at], message[at : at + IV], message[at + IV :]
    return data[:4] + aad + iv + aead.again(iv, body, aad)


def _esp_change(aead: Aead, *, esn: bool) -> Callable[[bytes], bytes]:
    high = bytes(4) if esn else b""  # RFC 4303 §2.2.1; nothing here lasts 2³² packets

    def change(data: bytes) -> bytes:
        head, iv, body = data[:8], data[8:16], data[16:]
        return head + iv + aead.again(iv, body, head[:4] + high + head[4:])

    return change
