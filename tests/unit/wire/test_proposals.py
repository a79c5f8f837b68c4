"""Proposals: octets, limits, keywords and the choice (RFC 7296 §2.7, §3.3; THREATS 11)."""

from __future__ import annotations

import pytest

from agent.wire.codes import EncryptionId, EsnId, IntegrityId, KeyExchangeId, PrfId, ProtocolId
from agent.wire.codes import TransformType as T
from agent.wire.errors import WireError
from agent.wire.keywords import KEYWORDS, REFUSED
from agent.wire.proposals import (
    MAX_PROPOSALS,
    MAX_TRANSFORMS,
    Proposal,
    Transform,
    accepted,
    choose,
    decode_proposals,
    encode_proposals,
    format_proposal,
    parse_proposals,
)

IKE, ESP = ProtocolId.IKE, ProtocolId.ESP
GCM128 = Transform(T.ENCR, EncryptionId.ENCR_AES_GCM_16, 128)
GCM256 = Transform(T.ENCR, EncryptionId.ENCR_AES_GCM_16, 256)
CBC128 = Transform(T.ENCR, EncryptionId.ENCR_AES_CBC, 128)
CHACHA = Transform(T.ENCR, EncryptionId.ENCR_CHACHA20_POLY1305)
SHA256 = Transform(T.INTEG, IntegrityId.AUTH_HMAC_SHA2_256_128)
NO_INTEG = Transform(T.INTEG, IntegrityId.NONE)
PRF256 = Transform(T.PRF, PrfId.PRF_HMAC_SHA2_256)
PRF512 = Transform(T.PRF, PrfId.PRF_HMAC_SHA2_512)
X25519 = Transform(T.KE, KeyExchangeId.CURVE25519)
ECP256 = Transform(T.KE, KeyExchangeId.ECP_256)
MODP = Transform(T.KE, KeyExchangeId.MODP_2048)
NO_KE = Transform(T.KE, KeyExchangeId.NONE)
NO_ESN = Transform(T.ESN, EsnId.NO_ESN)
ESN = Transform(T.ESN, EsnId.ESN)


def ike(*transforms: Transform, number: int = 1) -> Proposal:
    return Proposal(IKE, b"", transforms, number)


def esp(*transforms: Transform, number: int = 1) -> Proposal:
    return Proposal(ESP, b"spi4", transforms, number)


# --- wire --------------------------------------------------------------------------------------

# One proposal of ESP with an SPI: AES-CBC-128, HMAC-SHA2-256-128, no ESN.
ESP_OCTETS = bytes.fromhex(
    "00000028 01030403 616263640300000c 0100000c 800e008003000008 0300000c00000008 05000000"
)


def test_octets_on_the_wire():
    proposals = (Proposal(ESP, b"abcd", (CBC128, SHA256, NO_ESN)),)
    assert encode_proposals(proposals) == ESP_OCTETS
    assert decode_proposals(ESP_OCTETS) == proposals


def damaged(at: int, value: int) -> bytes:
    octets = bytearray(ESP_OCTETS)
    octets[at] = value
    return bytes(octets)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (damaged(0, 1), "proposal"),  # neither last nor more
        (damaged(0, 2), "proposal_length"),  # more announced
        (damaged(2, 0xFF), "proposal_length"),
        (damaged(3, 0x27), "transform_length"),
        (damaged(3, 0x00), "proposal_length"),
        (damaged(3, 0x03), "proposal_length"),
        (damaged(6, 0xFF), "proposal_length"),
        (damaged(6, 9), "proposal"),  # SPI size
        (damaged(7, 0), "transform_count"),
        (damaged(7, 2), "transform_count"),
        (damaged(7, 4), "transform_count"),
        (damaged(7, 255), "transform_count"),
        (damaged(12, 0), "transform_count"),
        (damaged(15, 0), "transform_length"),
        (damaged(15, 7), "transform_length"),
        (damaged(14, 0xFF), "transform_length"),
        (damaged(15, 0x0A), "attribute_length"),
        (ESP_OCTETS + b"\0", "proposal_length"),
        (b"", "proposal_length"),
    ],
)
def test_malformed_proposals(octets, reason):
    with pytest.raises(WireError) as caught:
        decode_proposals(octets)
    assert caught.value.reason == reason


def test_numbers_of_proposals_and_transforms_are_bounded():
    most = tuple(ike(GCM128, number=n) for n in range(MAX_PROPOSALS))
    assert decode_proposals(encode_proposals(most)) == most
    one = bytes.fromhex("02000008 01010000")
    last = bytes.fromhex("00000008 01010000")
    for count in (MAX_PROPOSALS, 1000, 8000):
        with pytest.raises(WireError) as caught:
            decode_proposals(one * count + last)
        assert caught.value.reason == "too_many_proposals"
    full = b"".join(bytes.fromhex("03000008 01000001") for _ in range(254))
    head = bytes.fromhex("02000800 010100ff")
    whole = head + full + bytes.fromhex("00000008 01000001")
    assert len(whole) == 0x800
    with pytest.raises(WireError) as caught:
        decode_proposals(whole * 30)
    assert caught.value.reason == "too_many_transforms"
    assert MAX_TRANSFORMS < 3 * 255


def test_attributes_that_nobody_knows_make_a_transform_strange_and_no_more():
    for attributes in (
        "800f0080",  # another type
        "000e0002 0080",  # the key length in the variable format
        "800e0080 800e0080",  # two key lengths
        "00630000",
    ):
        octets = bytes.fromhex(attributes)
        data = bytes((0, 0, 0, 16 + len(octets), 1, 1, 0, 1))
        data += bytes((0, 0, 0, 8 + len(octets), 1, 0, 0, 20)) + octets
        (proposal,) = decode_proposals(data)
        (transform,) = proposal.transforms
        assert transform.attributes
        assert transform not in (GCM128, GCM256, Transform(T.ENCR, 20))
        assert decode_proposals(encode_proposals((proposal,))) == (proposal,)


@pytest.mark.parametrize("attributes", ["80", "800e00", "00630004 000000", "00010000" * 9])
def test_malformed_attributes(attributes):
    octets = bytes.fromhex(attributes)
    data = bytes((0, 0, 0, 16 + len(octets), 1, 1, 0, 1))
    data += bytes((0, 0, 0, 8 + len(octets), 1, 0, 0, 20)) + octets
    with pytest.raises(WireError, match="attribute"):
        decode_proposals(data)


def test_what_the_wire_has_no_room_for():
    for proposals in (
        (),
        (ike(GCM128),) * (MAX_PROPOSALS + 1),
        (ike(*[GCM128] * 256),),
        (Proposal(ESP, bytes(9), (GCM128,)),),
    ):
        with pytest.raises(WireError):
            encode_proposals(proposals)


# --- choice ------------------------------------------------------------------------------------


def test_one_transform_of_each_type_by_our_preference():
    offered = [ike(GCM128, GCM256, PRF256, PRF512, X25519, MODP)]
    ours = [ike(GCM256, GCM128, PRF512, PRF256, ECP256, MODP, X25519)]
    assert choose(offered, ours) == ike(GCM256, PRF512, MODP)


def test_our_first_proposal_goes_before_their_first():
    offered = [ike(CBC128, PRF256, SHA256, MODP, number=1), ike(GCM128, PRF256, X25519, number=2)]
    ours = [ike(GCM128, PRF256, X25519), ike(CBC128, PRF256, SHA256, MODP)]
    assert choose(offered, ours) == offered[1]
    assert choose(offered, ours[::-1]) == offered[0]


def test_number_and_spi_are_the_offered_ones():
    chosen = choose([esp(GCM128, NO_ESN, number=7)], [Proposal(ESP, b"", (GCM128, NO_ESN))])
    assert chosen == esp(GCM128, NO_ESN, number=7)
    assert chosen.with_spi(b"mine") == Proposal(ESP, b"mine", (GCM128, NO_ESN), 7)


@pytest.mark.parametrize(
    "offered",
    [
        ike(GCM128, PRF256),  # a type is missing
        ike(GCM128, X25519),
        ike(GCM128, PRF256, X25519, SHA256),  # one is left over
        ike(GCM128, PRF256, X25519, Transform(250, 0)),  # one that nobody knows
        ike(GCM128, PRF256, X25519, Transform(T.ADDKE1, 36)),
        ike(GCM256, PRF256, X25519),  # another key length
        ike(Transform(T.ENCR, 20), PRF256, X25519),  # none at all
        ike(Transform(T.ENCR, 20, 128, ((0x8063, b"ab"),)), PRF256, X25519),
        ike(GCM128, PRF256, NO_KE),
        Proposal(ESP, b"", (GCM128, PRF256, X25519)),
        ike(),
    ],
)
def test_unacceptable_proposals(offered):
    assert choose([offered], [ike(GCM128, PRF256, X25519)]) is None
    assert choose([offered, ike(GCM128, PRF256, X25519, number=2)], [ike(GCM128, PRF256, X25519)])


def test_none_equals_absence_where_a_type_may_be_absent():
    # RFC 7296 §3.3.3: "a single integrity algorithm of NONE" beside an AEAD cipher.
    assert choose([esp(GCM128, NO_INTEG, NO_ESN)], [esp(GCM128, NO_ESN)]) == esp(
        GCM128, NO_INTEG, NO_ESN
    )
    assert choose([esp(GCM128, X25519, NO_KE, NO_ESN)], [esp(GCM128, NO_ESN)]) == esp(
        GCM128, NO_KE, NO_ESN
    )
    with_none = ike(GCM128, PRF256, X25519, Transform(T.ADDKE1, 0), Transform(T.ADDKE1, 36))
    assert choose([with_none], [ike(GCM128, PRF256, X25519)]) == ike(
        GCM128, PRF256, X25519, Transform(T.ADDKE1, 0)
    )
    # The other way round: ours offers "none", theirs leaves the type out.
    assert choose([esp(GCM128, NO_ESN)], [esp(GCM128, X25519, NO_KE, NO_ESN)]) == esp(
        GCM128, NO_ESN
    )


def test_esn_must_be_said():
    assert choose([esp(GCM128)], [esp(GCM128, NO_ESN)]) is None
    assert choose([esp(GCM128, NO_ESN, ESN)], [esp(GCM128, ESN, NO_ESN)]) == esp(GCM128, ESN)
    assert choose([esp(GCM128, ESN)], [esp(GCM128, NO_ESN)]) is None


def test_the_answer_must_be_one_of_what_was_sent():
    sent = [ike(GCM128, GCM256, PRF256, X25519), ike(CBC128, SHA256, PRF256, MODP, number=2)]
    assert accepted([ike(GCM256, PRF256, X25519)], sent) == ike(GCM256, PRF256, X25519)
    for answer in (
        [],
        [ike(GCM256, PRF256, X25519)] * 2,
        [ike(GCM128, GCM256, PRF256, X25519)],  # nothing chosen
        [ike(GCM256, PRF256, MODP)],  # not offered together
        [ike(GCM256, PRF256, X25519, number=2)],
        [ike(GCM256, PRF256, X25519, number=3)],
        [ike(GCM256, PRF256)],
        [ike(GCM256, PRF256, X25519, NO_ESN)],
        [ike()],
    ):
        assert accepted(answer, sent) is None


def test_key_exchange_is_taken_out_for_ike_auth():
    whole = esp(GCM128, X25519, NO_ESN, Transform(T.ADDKE1, 36))
    assert whole.without_key_exchange() == esp(GCM128, NO_ESN)
    assert whole.transform(T.KE) == X25519
    assert whole.transform(T.PRF) is None
    assert esp(GCM128, GCM256).of_type(T.ENCR) == (GCM128, GCM256)


# --- keywords ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "transforms"),
    [
        ("aes128gcm16-prfsha256-x25519", (GCM128, PRF256, X25519)),
        ("aes256gcm128-prfsha512-curve25519", (GCM256, PRF512, X25519)),
        ("aes128-sha256-x25519", (CBC128, PRF256, SHA256, X25519)),
        ("aes-sha2_256-prfsha512-modp2048", (CBC128, PRF512, SHA256, MODP)),
        ("aes128gcm16-sha256-ecp256", (GCM128, PRF256, ECP256)),  # the hash only names the PRF
        ("chacha20poly1305-sha512-x25519", (CHACHA, PRF512, X25519)),
        (
            "aes128gcm16-aes256gcm16-prfsha256-x25519-modp2048",
            (GCM128, GCM256, PRF256, X25519, MODP),
        ),
        ("x25519-prfsha256-aes128gcm16", (GCM128, PRF256, X25519)),
    ],
)
def test_words_for_ike(text, transforms):
    assert parse_proposals([text], IKE) == (Proposal(IKE, b"", transforms, 1),)


@pytest.mark.parametrize(
    ("text", "transforms"),
    [
        ("aes128gcm16", (GCM128, NO_ESN)),
        ("aes128gcm128-x25519", (GCM128, X25519, NO_ESN)),
        ("aes128-sha256-esn", (CBC128, SHA256, ESN)),
        ("aes256gcm16-esn-noesn", (GCM256, ESN, NO_ESN)),
        ("chacha20poly1305-noesn", (CHACHA, NO_ESN)),
    ],
)
def test_words_for_esp(text, transforms):
    assert parse_proposals([text], ESP) == (Proposal(ESP, b"", transforms, 1),)


# Each word with the transform that it has in strongSwan, src/libstrongswan/crypto/proposal
@pytest.mark.parametrize(
    ("words", "transform"),
    [
        ("aes128ccm16 aes128ccm128", Transform(T.ENCR, 16, 128)),
        ("aes256ccm16 aes256ccm128", Transform(T.ENCR, 16, 256)),
        ("aes128ccm8 aes128ccm64", Transform(T.ENCR, 14, 128)),
        ("aes256ccm8 aes256ccm64", Transform(T.ENCR, 14, 256)),
        ("sha384 sha2_384", Transform(T.INTEG, 13)),
        ("sha512 sha2_512", Transform(T.INTEG, 14)),
        ("prfsha384", Transform(T.PRF, 6)),
        ("prfsha512", Transform(T.PRF, 7)),
        ("prfaesxcbc", Transform(T.PRF, 4)),
        ("prfaescmac", Transform(T.PRF, 8)),
        ("ecp384", Transform(T.KE, 20)),
        ("ecp521", Transform(T.KE, 21)),
        ("modp3072", Transform(T.KE, 15)),
        ("modp4096", Transform(T.KE, 16)),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_words_of_the_long_suites(words, transform):
    beside = {
        T.ENCR: "-prfsha256-x25519",
        T.INTEG: "-aes128-x25519",
        T.PRF: "-aes128gcm16-x25519",
        T.KE: "-aes128gcm16-prfsha256",
    }
    for word in words.split():
        (proposal,) = parse_proposals([word + beside[transform.type]], IKE)
        assert proposal.of_type(transform.type) == (transform,)
        if transform.type == T.INTEG:
            assert proposal.of_type(T.PRF) == (Transform(T.PRF, transform.id - 7),)
        assert words.split()[0] in format_proposal(proposal).split("-")
        if transform.type != T.PRF:
            esp_text = word + ("" if transform.type == T.ENCR else beside[transform.type])
            esp_text = esp_text.replace("-prfsha256", "")
            (proposal,) = parse_proposals([esp_text], ESP)
            assert transform in proposal.transforms


def test_nothing_is_offered_that_the_rfcs_advise_against():
    """RFC 8247 §2.1 to §2.4, RFC 8221 §5, §6: MUST NOT, SHOULD NOT and MUST-."""
    advised_against = {
        T.ENCR: {1, 2, 3, 4, 5, 6, 7, 8, 9, 11},
        T.PRF: {1, 2, 3},
        T.INTEG: {1, 2, 3, 4, 6, 7},
        T.KE: {1, 2, 5, 22, 23, 24, 25, 26},
    }
    assert not [w for w, k in KEYWORDS.items() if k.id in advised_against.get(k.type, ())]
    assert not KEYWORDS.keys() & REFUSED.keys()


@pytest.mark.parametrize("word", sorted(w for w in REFUSED if "mlkem" not in w))
@pytest.mark.parametrize("protocol", [IKE, ESP], ids=["ike", "esp"])
def test_a_refused_word_says_by_whom_and_what_to_use(word, protocol):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_proposals([f"aes128-sha256-{word}"], protocol)
    sentence = str(caught.value)
    assert f"'{word}'" in sentence
    assert "RFC 8247" in sentence or "RFC 8221" in sentence
    instead = sentence.rsplit("use ", 1)[1].removesuffix(" instead")
    advised = instead.replace(" or ", ", ").split(", ")
    assert len(advised) == 3
    assert all(good in KEYWORDS for good in advised)


def test_proposals_are_numbered():
    texts = ["aes128gcm16-prfsha256-x25519", " aes128-sha256-x25519 "]
    assert [p.number for p in parse_proposals(texts, IKE)] == [1, 2]


@pytest.mark.parametrize(
    ("text", "protocol", "names"),
    [
        ("aes128gcm16-prfsha256-x2551", IKE, ["'x2551'", "x25519", "modp2048"]),
        ("3des-sha256", ESP, ["'3des'", "3DES", "RFC 8221 §5", "aes128gcm16"]),
        ("aes128-sha1-modp2048", IKE, ["'sha1'", "SHA-1", "MUST-", "RFC 8247 §2.3", "sha256"]),
        ("aes128gcm16-prfsha256-modp1024", IKE, ["'modp1024'", "modp2048"]),
        (
            "aes128gcm16-prfsha256-x25519-ke1_modp1024",
            IKE,
            ["'ke1_modp1024'", "RFC 8247 §2.4", "modp2048"],
        ),
        ("aes128gcm16-prfsha256", ESP, ["'prfsha256'", "no place", "ESP"]),
        ("aes128gcm16-prfsha256-x25519-esn", IKE, ["'esn'", "no place", "IKE"]),
        ("aes128gcm16-x25519", IKE, ["no PRF", "prfsha256"]),
        ("aes128gcm16-prfsha256", IKE, ["no key exchange", "x25519"]),
        ("prfsha256-x25519", IKE, ["no encryption"]),
        ("sha256", ESP, ["no encryption"]),
        ("aes128-x25519", ESP, ["sha256"]),
        ("aes128-prfsha256-x25519", IKE, ["sha256"]),
        ("aes128gcm16-sha256", ESP, ["sha256"]),
        ("aes128gcm16-aes128-sha256-x25519", IKE, ["two"]),
        ("", IKE, ["words"]),
        ("-", IKE, ["''"]),
        ("aes128gcm16-\x1b[31m\n-x25519", IKE, ["\\x1b[31m\\x0a"]),
    ],
)
def test_wrong_words_are_named(text, protocol, names):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_proposals([text], protocol)
    sentence = str(caught.value)
    for name in names:
        assert name in sentence
    assert sentence.isprintable()


def test_there_must_be_some_proposals():
    for texts in ([], ["aes128gcm16"] * 65):
        with pytest.raises(ValueError, match="1 to 64"):
            parse_proposals(texts, ESP)
    with pytest.raises(ValueError, match="IKE or for ESP"):
        parse_proposals(["aes128gcm16"], ProtocolId.AH)


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        ("aes128gcm16-prfsha256-x25519", IKE),
        ("aes128-sha256-x25519", IKE),
        ("aes256-sha256-prfsha384-ecp256-modp2048", IKE),
        ("chacha20poly1305-prfsha512-x25519", IKE),
        ("aes128gcm16", ESP),
        ("aes128-sha256-x25519-esn", ESP),
        ("aes128gcm16-esn-noesn", ESP),
        ("aes128gcm16-noesn-esn", ESP),
    ],
)
def test_texts_come_back(text, protocol):
    (proposal,) = parse_proposals([text], protocol)
    assert format_proposal(proposal) == str(proposal) == text


def test_what_has_no_word_gets_one():
    proposal = ike(Transform(T.ENCR, 3), Transform(T.KE, 999), Transform(77, 5, 10))
    assert format_proposal(proposal) == "encr3-ke999-type77_5_10"
    assert format_proposal(ike()) == "none"


def test_additional_key_exchanges_as_strongswan_spells_them():
    (proposal,) = parse_proposals(
        ["aes128gcm16-prfsha256-x25519-ke2_mlkem1024-ke1_mlkem768-ke1_none"], ProtocolId.IKE
    )
    assert [(t.type, t.id) for t in proposal.transforms if t.type > 5] == [
        (6, 36),
        (6, 0),
        (7, 37),
    ]
    assert proposal.additional == (6, 7)
    text = "aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke1_none-ke2_mlkem1024"
    assert format_proposal(proposal) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("aes128gcm16-prfsha256-x25519-ke2_mlkem768", "no gaps"),
        ("aes128gcm16-prfsha256-ke1_mlkem768", "no key exchange"),
        ("aes128gcm16-prfsha256-x25519-ke1_mlkem512", "mlkem768"),
        ("aes128gcm16-prfsha256-x25519-ke8_mlkem768", "not known"),
        ("aes128gcm16-prfsha256-x25519-ke1_aes128", "not known"),
    ],
)
def test_additional_key_exchanges_that_make_no_proposal(text, why):
    with pytest.raises(ValueError, match=why):
        parse_proposals([text], ProtocolId.IKE)


def test_no_key_exchange_method_is_chosen_twice():
    """RFC 9370 §2.2.2."""
    offered = parse_proposals(
        ["aes128gcm16-prfsha256-x25519-ke1_x25519-ke1_mlkem768-ke2_mlkem768-ke2_mlkem1024"],
        ProtocolId.IKE,
    )
    chosen = choose(offered, offered)
    assert [t.id for t in chosen.transforms if t.type in (4, 6, 7)] == [31, 36, 37]
    twice = parse_proposals(["aes128gcm16-prfsha256-x25519-ke1_x25519"], ProtocolId.IKE)
    assert choose(twice, twice) is None
