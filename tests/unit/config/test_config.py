"""hearthgate.toml: every key, and every kind of mistake with its sentence."""

from __future__ import annotations

import ipaddress

import pytest

from agent.bridge.devices import ModbusConfig, MqttConfig, SerialConfig
from agent.config import Config, load_config, split_host
from agent.crypto.auth import key_text
from agent.errors import ConfigError
from agent.wire.payloads import Identification
from tests.support.pair import key_of

KEY = key_text(key_of("one").public)
OTHER = key_text(key_of("two").public)
PSK = "correct horse battery staple"

MEDIATOR = f"""
[mediator.main]
address = "med.example.org"
key = "{KEY}"
"""

FULL = f"""
name = "cabin"
port = 4501
tun = "hg0"
mtu = 1400
addresses = ["10.99.0.1", "10.98.0.1/24"]

[mediator.main]
address = "med.example.org:4600"
key = "{KEY}"

[mediator.swan]
address = "[2001:db8::1]:4500"
id = "ms@example.org"
local_id = "cabin@example.org"
psk = "{PSK}"
proposals = ["aes256gcm16-prfsha384-x25519"]

[mediate]
address = "here.example.org"
anycast = ["192.0.2.1", "2001:db8::1"]
local_id = "here.example.org"
proposals = ["aes128-sha256-x25519"]

[mediate.peer.old]
id = "old@example.org"
psk = "{PSK}"
may_call = ["new@example.org"]

[mediate.peer.new]
id = "new@example.org"
key = "{OTHER}"

[peer.office]
key = "{OTHER}"
id = "office.example.org"
local_id = "cabin.example.org"
address = "office.example.org"
role = "owner"
grants = ["tcp:22", "read:boiler"]
proposals = "aes128gcm16-prfsha256-x25519"
esp_proposals = ["aes128gcm16"]
local_ts = ["10.99.0.1/32"]
remote_ts = ["10.1.0.0/16[tcp/80]"]
start = true
liveness_seconds = 10
ike_seconds = 600
child_seconds = 300
child_octets = 1000000
child_packets = 10000

[peer.roadwarrior]
psk = "{PSK}"
id = "rw@example.org"
virtual_ip = false
assign = ["10.3.0.1", "fd00::1"]

[peer.mediated]
key = "{KEY}"
mediator = "swan"
pseudonym = "mediated@example.org"
virtual_ip = true

[device.boiler]
type = "modbus"
port = "/dev/ttyUSB0"
listen = 502
[device.boiler.points.setpoint]
register = 0
scale = 0.1
writable = true
min = 5
max = 30

[device.bus]
type = "serial"
port = "/dev/ttyUSB1"
listen = 7001

[device.broker]
type = "mqtt"
"""


def full() -> Config:
    return load_config(FULL, "test.toml")


def sentence(text: str, read=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(text, "test.toml", read)
    said = caught.value.sentence
    assert said.startswith("test.toml: ")
    assert "\n" not in said
    assert caught.value.exit_code == 78
    return said


def test_nothing_is_a_configuration():
    config = load_config("")
    assert (config.port, config.tun, config.mtu, config.name) == (4500, "hearth0", 1280, "")
    assert config.needs_tun
    assert not config.direct
    assert config.mediate is None


def test_top_level_keys():
    config = full()
    assert (config.name, config.port, config.tun, config.mtu) == ("cabin", 4501, "hg0", 1400)
    assert config.addresses == ("10.99.0.1/32", "10.98.0.1/24")
    assert config.needs_tun
    assert config.direct  # the road warrior has neither address nor mediator


def test_mediators():
    main, swan = full().mediators
    assert (main.name, main.host, main.port) == ("main", "med.example.org", 4600)
    assert main.key == key_of("one").public
    assert main.remote_id == Identification.key_id(main.key)
    assert main.is_ours
    assert (swan.host, swan.port, swan.psk) == ("2001:db8::1", 4500, PSK.encode())
    assert swan.remote_id == Identification.parse("ms@example.org")
    assert not swan.is_ours
    assert swan.key is None
    assert len(swan.proposals) == 1


def test_a_mediator_may_prove_itself_by_psk_alone():
    config = load_config(
        f'[mediator.m]\naddress = "m"\npsk = "{PSK}"\nid = "ms"\nlocal_id = "me@example.org"'
    )
    assert config.mediators[0].key is None
    assert config.mediators[0].psk == PSK.encode()


def test_mediate():
    mediate = full().mediate
    assert mediate is not None
    assert mediate.address == "here.example.org"
    assert mediate.anycast == (bytes((192, 0, 2, 1)), bytes.fromhex("20010db8" + "0" * 23 + "1"))
    assert mediate.local_id == Identification.parse("here.example.org")
    old, new = mediate.peers
    assert old.may_call == (Identification.parse("new@example.org"),)
    assert (old.psk, old.key) == (PSK.encode(), None)
    assert (new.psk, new.key) == (None, key_of("two").public)


def test_a_mere_mediator_needs_no_tun():
    assert not load_config("[mediate]").needs_tun
    assert load_config("[mediate]" + MEDIATOR).needs_tun


def test_peers():
    office, road, mediated = full().peers
    assert (office.host, office.port, office.role) == ("office.example.org", 4500, "owner")
    assert office.grants == ("tcp:22", "read:boiler")
    assert office.remote_id == Identification.parse("office.example.org")
    assert office.local_id == Identification.parse("cabin.example.org")
    assert str(office.remote_ts[0]) == "10.1.0.0/16[tcp/80]"
    assert office.start
    times = (office.liveness_seconds, office.ike_seconds, office.child_seconds)
    assert times == (10, 600, 300)
    assert (office.child_octets, office.child_packets) == (1000000, 10000)
    assert (len(office.proposals), len(office.esp_proposals)) == (1, 1)
    packed = tuple(ipaddress.ip_address(a).packed for a in ("10.3.0.1", "fd00::1"))
    assert road.assign == packed
    assert road.role == "reader"
    assert (mediated.mediator, mediated.virtual_ip) == ("swan", True)
    assert mediated.remote_id == Identification.key_id(key_of("one").public)


def test_devices():
    boiler, bus, broker = full().devices
    assert isinstance(boiler, ModbusConfig)
    assert boiler.points[0].name == "setpoint"
    assert isinstance(bus, SerialConfig)
    assert isinstance(broker, MqttConfig)


def test_no_secret_in_a_repr():
    assert PSK not in repr(full())
    assert repr(PSK.encode()) not in repr(full())


# --- mistakes ----------------------------------------------------------------------------------

PEER = f'[peer.x]\nkey = "{KEY}"\n'
MISTAKES = [
    ("mtu = 1300\nport = \n", "not valid TOML", "line 2"),
    ("a = " + "[" * 3000, "nested too deeply", ""),
    ("port = " + "9" * 5000, "a number in this file is too long", ""),
    ("port = 0x" + "f" * 5000, "port = a number", "from 0 to 65535"),
    ("port = 70000", "port = 70000", "a whole number from 0 to 65535 is wanted"),
    ("port = -1", "port = -1", "a whole number from 0 to 65535 is wanted"),
    ("port = true", "port = true", "a whole number"),
    ("port = [true, 1.5, [[1]]]", "port = [true, 1.5, [[…]]]", "a whole number"),
    ('port = [{psk = "x1234567"}]', "port = [{…}]", "a whole number"),
    ("port = 4500.0", "port = 4500.0", "a whole number"),
    ("port = nan", "port = nan", "a whole number"),
    ('port = "4500"', 'port = "4500"', "a whole number"),
    ("port = 500", "port = 500", "4500 is usual"),
    ("prot = 1", "prot is an unknown key", 'did you mean "port"?'),
    ("zzzzz = 1", "zzzzz is an unknown key", "name, port, tun, mtu, addresses, "),
    ("mtu = 576", "mtu = 576", "from 1280 to 9000"),
    ('tun = "far-too-long-a-name"', "tun = ", "1 to 15 letters"),
    ('tun = "a/b"', 'tun = "a/b"', "1 to 15 letters"),
    ('tun = ".."', 'tun = ".."', "1 to 15 letters"),
    ("name = 3", "name = 3", "a text in quotes"),
    ('name = "my cabin"', 'name = "my cabin"', "1 to 63 letters"),
    ('name = "a\\u001b[31m"', "\\x1b[31m", "1 to 63 letters"),
    ('addresses = ["nonsense"]', "addresses", '["10.99.0.1/32"]'),
    ("addresses = [1]", "addresses = [1]", "a list of texts"),
    ('mediator = "med"', 'mediator = "med"', "[mediator] is a table"),
    ('[mediator]\naddress = "a"', "[mediator] address", "[mediator.NAME]"),
    (f'[mediator.m]\nkey = "{KEY}"', "[mediator.m] address is missing", "host name"),
    ('[mediator.m]\naddress = "a"', "[mediator.m] key is missing", "`hearthgate mediate`"),
    ('[mediator.m]\naddress = "a"', "[mediator.m] key is missing", "one of key, key_file"),
    (MEDIATOR.replace(KEY, KEY[:-1]), "[mediator.main] key = ", "43 characters"),
    (MEDIATOR.replace("med.", "med "), "[mediator.main] address", "a host name or an address"),
    (MEDIATOR + 'proposals = ["des-md5"]', "[mediator.main] proposals", "des"),
    (MEDIATOR + f'psk = "{PSK}"', "[mediator.main] psk is wrong", "give key or psk, not both"),
    (MEDIATOR + f'psk = "{PSK}"', "`hearthgate peers --own`", "remote { auth = pubkey  pubkeys"),
    (MEDIATOR + 'psk_file = "x"', "[mediator.main] psk_file", "`hearthgate peers --own`"),
    (f'[mediator.m]\naddress="m"\nid="a"\npsk="{PSK}"', "local_id is missing", "psk"),
    (f'[mediator.m]\naddress="m"\nlocal_id="a"\npsk="{PSK}"', "[mediator.m] id is missing", "psk"),
    (f'[mediator."a b"]\naddress = "m"\nkey = "{KEY}"', "[mediator.a b]:", "1 to 63 letters"),
    ('[mediate]\naddress = "a b"', "[mediate] address", "a host name or an address"),
    ('[mediate]\nanycast = ["192.0.2.1"]', "[mediate] address is missing", "sent to it"),
    ('[mediate]\naddress="a"\nanycast = ["b"]', "[mediate] anycast", "addresses are wanted"),
    ('[mediate]\naddress="a%b"\nanycast=["::2"]', "[mediate] address", "cannot be sent to it"),
    ('[mediate]\naddress="192.0.2.1:9"\nanycast=["192.0.2.1"]', "anycast", "another one"),
    ("[mediat]", "mediat is an unknown key", 'did you mean "mediat'),
    ("[mediate]\naddres = 1", "[mediate] addres is an unknown key", '"address"'),
    (f'[mediate.peer.p]\nkey = "{KEY}"', "[mediate.peer.p] id is missing", "registers with"),
    ('[mediate.peer.p]\nid = "a"', "[mediate.peer.p] key is missing", "one of key, key_file"),
    (f'[mediate.peer.p]\nid="a"\nkey="{KEY}"\npsk="{PSK}"', "psk is wrong", "key or psk, not both"),
    (f'[mediate.peer.p]\nid="a"\nkey="{KEY}"\npsk_both=true', "psk_both", "without psk"),
    (
        f'[mediate.peer.p]\nid="a"\nkey="{KEY}"\n[mediate.peer.q]\nid="a"\npsk="{PSK}"',
        "[mediate.peer.q] has the identity of [mediate.peer.p]",
        "of its own",
    ),
    (f'[mediate.peer.p]\nid="a"\nkey="{KEY}"\nmay_call=["keyid:x"]', "may_call", "key ID"),
    ('[peer.x]\nid = "a"', "[peer.x] key is missing", "one of key, key_file"),
    (PEER + f'psk = "{PSK}"', "[peer.x] psk is wrong", "give key or psk, not both"),
    (f'[peer.x]\npsk = "{PSK}"', "[peer.x] id is missing", "psk"),
    (PEER + 'id = ""', "[peer.x] id", ""),
    (PEER + 'role = "king"', '[peer.x] role = "king"', "reader, operator, technician, owner"),
    (PEER + 'grants = ["fly"]', "[peer.x] grants", "allowed are"),
    (PEER + 'grants = ["tcp:99999"]', "[peer.x] grants", "1 to 65535"),
    (PEER + 'address = "a:b"', "[peer.x] address", "1 to 65535"),
    (PEER + 'mediator = "m"', "[peer.x] pseudonym is missing", "mediation server"),
    (PEER + 'mediator = "m"\npseudonym = "p"', '[peer.x] mediator = "m"', "none is configured"),
    (PEER + 'pseudonym = "p"', "[peer.x] pseudonym", "nothing without mediator"),
    (f'[peer.x]\nid = "a"\npsk = "{PSK}"', "[peer.x] remote_ts is missing", "or give it one"),
    (PEER + "start = true", "[peer.x] start = true", "neither address nor mediator"),
    (PEER + "start = 1", "[peer.x] start = 1", "true or false"),
    (PEER + 'local_ts = ["10.0.0.0/99"]', "[peer.x] local_ts", ""),
    (PEER + 'assign = ["10.3.0.0/24"]', "[peer.x] assign", '["10.3.0.1"]'),
    (PEER + "liveness_seconds = 0", "[peer.x] liveness_seconds = 0", "from 1 to 86400"),
    (PEER + "ike_seconds = 9", "[peer.x] ike_seconds = 9", "from 10 to"),
    (PEER + "child_seconds = 90000", "[peer.x] child_seconds", "from 10 to 86400"),
    (PEER + "child_octets = 1", "[peer.x] child_octets = 1", "from 65536"),
    (PEER + "child_packets = 1", "[peer.x] child_packets = 1", "from 256"),
    (PEER + PEER.replace("x", "y", 1), "[peer.y] has the identity of [peer.x]", "of its own"),
    ("[device.d]", "[device.d] type", "modbus"),
    ('[device.d]\ntype = "toaster"', "toaster", "serial"),
    ('[device."d d"]\ntype = "mqtt"', "[device.d d]:", "1 to 63 letters"),
    (
        '[device.a]\ntype = "mqtt"\nlisten = 7\n[device.b]\ntype = "mqtt"\nlisten = 7',
        "listen = 7",
        "used by a",
    ),
    ('[device.a]\ntype = "mqtt"\nlisten = 80', "listen = 80", "used by get and set"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "advice"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(text, place, advice):
    said = sentence(text)
    assert place in said
    assert advice in said
    assert len(said) < 600
    assert all(c.isprintable() for c in said)


def test_a_peer_by_mediator_and_by_address_is_refused():
    said = sentence(MEDIATOR + PEER + 'mediator="main"\npseudonym="p"\naddress="a"')
    assert "not both" in said


WEAK = [
    *("short", "a" * 24, "ab" * 12, "password" * 8, "passwordpasswordpass"),
    "1011001110001011",  # four characters of anything are no choice
]


@pytest.mark.parametrize("psk", WEAK)
def test_a_weak_psk_is_refused_and_not_repeated(psk):
    said = sentence(f'[peer.x]\nid = "a"\npsk = "{psk}"')
    assert "too weak" in said
    assert "openssl rand" in said
    assert psk not in said


@pytest.mark.parametrize(
    "line",
    [
        "psk = 123456789012345678901",
        'pks = "123456789012345678901"',
        "psk = ['x1234567']",
        "ppk = 123456789012345678901",
        'pkp = "123456789012345678901"',
        "ppk = ['x1234567']",
    ],
)
def test_a_secret_in_a_mistake_is_not_repeated(line):
    said = sentence('[peer.x]\nid = "a"\n' + line)
    assert "1234567" not in said


BY_FILE = '[peer.x]\nid = "a"\npsk_file = "x.psk"\nremote_ts = "10.2.0.0/16"'


def test_psk_file():
    wanted = []

    def read(path):
        wanted.append(path)
        return b"  " + PSK.encode() + b"\n"

    config = load_config(BY_FILE.replace("x.psk", "keys/x.psk"), "t", read)
    assert config.peers[0].psk == PSK.encode()
    assert wanted == ["keys/x.psk"]


def test_psk_file_is_not_wanted_where_it_is_only_looked_at():
    assert load_config(BY_FILE).peers[0].psk == b""


def test_psk_file_that_cannot_be_read():
    def read(path):
        raise PermissionError(13, "Permission denied")

    said = sentence('[peer.x]\nid = "a"\npsk_file = "x.psk"', read)
    assert '[peer.x] psk_file = "x.psk"' in said
    assert "Permission denied" in said


def test_psk_file_with_a_weak_key():
    said = sentence('[peer.x]\nid = "a"\npsk_file = "x.psk"', lambda path: b"secret")
    assert "[peer.x] psk_file" in said
    assert "secret" not in said


def test_psk_and_psk_file():
    said = sentence(f'[peer.x]\nid = "a"\npsk = "{PSK}"\npsk_file = "x"', lambda path: b"")
    assert "not both" in said


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("med.example.org", ("med.example.org", 4500)),
        ("med.example.org:99", ("med.example.org", 99)),
        ("203.0.113.1", ("203.0.113.1", 4500)),
        ("fd00::1", ("fd00::1", 4500)),
        ("[fd00::1]", ("fd00::1", 4500)),
        ("[fd00::1]:7", ("fd00::1", 7)),
    ],
)
def test_split_host(text, found):
    assert split_host(text) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", ":1", "a b", "[fd00::1", "[fd00::1]x", "a:0", "a:65536", "a:x", "a:٣", "a" * 254),
        *("a:" + "9" * 99, "1:2:3", ":::x", "[a.b]:7", "fd00::g"),
    ],
)
def test_split_host_refuses(text):
    with pytest.raises(ValueError, match=r"wanted|written|number"):
        split_host(text)


def test_ml_kem_by_default_between_our_own_ends():
    """And never with a mediation server of another kind, which knows us by a `local_id`."""
    config = load_config(
        '[mediate]\n[mediator.ours]\naddress = "h"\n'
        'key = "eGVygzLgOmO2RCtC75jusdS-_R6cUDK4PXD2Tl9VGlA"\n'
        '[mediator.other]\naddress = "h"\nlocal_id = "me"\n'
        'key = "eGVygzLgOmO2RCtC75jusdS-_R6cUDK4PXD2Tl9VGlA"\n'
        '[peer.x]\naddress = "h"\npsk = "correct horse battery staple"\nid = "x"\n'
        'remote_ts = "10.2.0.0/16"'
    )
    (peer,), (ours, other) = config.peers, config.mediators
    assert config.mediate is not None
    for proposals in (peer.proposals, ours.proposals, config.mediate.proposals):
        assert str(proposals[0]) == "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
        assert any(not p.additional for p in proposals)
    assert not any(p.additional for p in other.proposals)


def test_required_ml_kem_is_a_matter_of_the_proposals():
    config = load_config(
        '[peer.x]\naddress = "h"\npsk = "correct horse battery staple"\nid = "x"\n'
        'proposals = "aes128gcm16-prfsha256-x25519-ke1_mlkem768"\nassign = "10.3.0.1"'
    )
    assert [str(p) for p in config.peers[0].proposals] == [
        "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
    ]


def test_no_additional_key_exchange_with_a_mediator_of_another_kind():
    said = sentence(
        '[mediator.m]\naddress = "h"\npsk = "correct horse battery staple"\nid = "m"\n'
        'local_id = "me"\nproposals = "aes128-sha256-x25519-ke1_mlkem768"'
    )
    assert "ke1_" in said


# -- postquantum preshared keys (RFC 8784) -------------------------------------------------------

PPK = "q9fZ0mJr1bX7cK4tV2yLwE8sA6hD3nGu"
PPK_PEER = '[peer.x]\nid = "a"\npsk = "abcdefghijklmnop"\nremote_ts = "10.2.0.0/16"\n'


def test_ppk():
    peer = load_config(f'{PPK_PEER}ppk = "{PPK}"\nppk_id = "office"').peers[0]
    assert (peer.ppk, peer.ppk_id, peer.ppk_required) == (PPK.encode(), "office", True)
    assert PPK not in repr(peer)


def test_ppk_file_and_optional():
    text = f'{PPK_PEER}ppk_file = "x.ppk"\nppk_id = "office"\nppk_required = false'
    peer = load_config(text, "t", lambda path: PPK.encode() + b"\n").peers[0]
    assert (peer.ppk, peer.ppk_required) == (PPK.encode(), False)
    assert load_config(text).peers[0].ppk == b""


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ('ppk = "short"\nppk_id = "a"', "too weak"),
        (f'ppk = "{"a" * 40}"\nppk_id = "a"', "too weak"),
        ('ppk = "acgtacggtacatgcatgcacgtgactagcatca"\nppk_id = "a"', "too weak"),
        (f'ppk = "{PPK}"', "ppk_id"),
        (f'ppk = "{PPK}"\nppk_id = "{"n" * 256}"', "ppk_id"),
        ('ppk_id = "a"', "says nothing"),
        ("ppk_required = true", "says nothing"),
        (f'ppk = "{PPK}"\nppk_file = "b"\nppk_id = "a"', "not both"),
    ],
)
def test_ppk_mistakes(lines, wanted):
    said = sentence(PPK_PEER + lines, lambda path: b"")
    assert "[peer.x]" in said
    assert wanted in said
    assert PPK not in said


def test_auth_seconds():
    """RFC 4478; a short one would make strongSwan authenticate over and over."""
    assert load_config(PPK_PEER).peers[0].auth_seconds == 0
    assert load_config(PPK_PEER + "auth_seconds = 3600").peers[0].auth_seconds == 3600
    assert "auth_seconds" in sentence(PPK_PEER + "auth_seconds = 300")


@pytest.mark.parametrize(
    "text",
    [
        "10.99.0.1/24",
        "10.99.0.0/30",
        "8.8.8.0/24",
        "0.0.0.0/0",
        "127.0.0.0/8",
        "fd00::/64",
        "x",
        "",
    ],
)
def test_a_network_that_nobody_should_give_out(text):
    with pytest.raises(ConfigError, match="a private network is wanted"):
        load_config(f'ipv4 = "{text}"')


def test_the_inner_ipv4_network():
    assert load_config("").ipv4 is None
    config = load_config('ipv4 = "100.64.8.0/22"')
    assert str(config.ipv4) == "100.64.8.0/22"
    assert config.own_ipv4 is None
    key = "A" * 43
    config = load_config(f'ipv4 = "10.9.0.0/29"\n[mediator.m]\naddress = "m"\nkey = "{key}"')
    assert config.own_ipv4 == bytes((10, 9, 0, 1))
