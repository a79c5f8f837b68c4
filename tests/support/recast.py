"""What Debian's tshark 4.0 has no cipher for, opened here and sealed again with one that it has.

ChaCha20-Poly1305 (IKE and ESP), AES-CCM (ESP) and extended sequence numbers. Opening proves the
integrity; what was inside is then tshark's to judge, octet by octet, as with every other suite.
None of our own code takes part: the keys are those of the key log, the ciphers the package's.
"""

from __future__ import annotations

import hmac
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
        kinds: dict[str, Callable[[bytes], AESCCM | AESGCM | ChaCha20Poly1305]] = {
            "CCM": lambda key: AESCCM(key, tag_length=self.icv),
            "CHACHA": ChaCha20Poly1305,
            "GCM": AESGCM,
        }
        self._cipher = next(make for word, make in kinds.items() if word in name)(self._key)
        self.new_key = self._key + self._salt.ljust(4, b"\0")

    def again(self, iv: bytes, data: bytes, aad: bytes, new_aad: bytes) -> bytes:
        """The same plaintext under AES-GCM. Raises InvalidTag."""
        plain = self._cipher.decrypt(self._salt + iv, data, aad)
        sealed = AESGCM(self._key).encrypt(self.new_key[-4:] + iv, plain, new_aad)
        return sealed[: len(sealed) - 16 + self.icv]


def recast(datagrams: Iterable[Datagram], lines: Sequence[str]) -> tuple[list[Datagram], list[str]]:
    """Both as tshark 4.0 can read them; what it can read anyway stays as it is."""
    ike, esp, new_lines = {}, {}, []
    for line in lines:
        fields = [f.strip('"') for f in re.split(r",(?=\S)", line.removeprefix("# "))]
        if fields[0].startswith("IP"):
            change = _esp_change(fields)
            esp.update({bytes.fromhex(fields[3][2:]): change} if change else {})
            new_lines.append(_esp_line(fields) if change else line)
        elif line.startswith("# ") and "CHACHA" in fields[4]:
            for spi, key, flag in ((fields[0], fields[2], True), (fields[1], fields[3], False)):
                ike[bytes.fromhex(spi), flag] = Aead("CHACHA", bytes.fromhex(key))
            new_lines.append(line.removeprefix("# ").replace(f'"{fields[4]}"', IKE_GCM))
        else:
            new_lines.append(line)
    return [(t, s, d, _again(data, ike, esp)) for t, s, d, data in datagrams], new_lines


def _again(data: bytes, ike: dict, esp: dict) -> bytes:
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
    return data[:4] + aad + iv + aead.again(iv, body, aad, aad)


def _esp_change(fields: list[str]) -> Callable[[bytes], bytes] | None:
    """What makes of an ESP packet one that tshark can read; None if it can anyway."""
    name, key, integ = fields[4].upper(), bytes.fromhex(fields[5][2:]), fields[6]
    high = bytes(4) if "64-bit" in fields else b""
    if "CBC" in name:
        return _without_esn(integ, bytes.fromhex(fields[7][2:])) if high else None
    if "GCM" in name and not high:
        return None
    aead = Aead(name, key)

    def change(data: bytes) -> bytes:
        head, iv, body = data[:8], data[8:16], data[16:]
        return head + iv + aead.again(iv, body, head[:4] + high + head[4:], head)

    return change


def _without_esn(integ: str, key: bytes) -> Callable[[bytes], bytes]:
    bits = int(integ.split("-")[2])

    def change(data: bytes) -> bytes:
        body, icv = data[: -bits // 16], data[-bits // 16 :]
        assert hmac.digest(key, body + bytes(4), f"sha{bits}")[: bits // 16] == icv
        return body + hmac.digest(key, body, f"sha{bits}")[: bits // 16]

    return change


def _esp_line(fields: list[str]) -> str:
    name, key = fields[4], fields[5]
    if "CBC" not in name:
        aead = Aead(name.upper(), bytes.fromhex(key[2:]))
        name = f"AES-GCM with {aead.icv} octet ICV [RFC4106]"
        key = "0x" + aead.new_key.hex()
    return ",".join(f'"{f}"' for f in [*fields[:4], name, key, *fields[6:8]])
