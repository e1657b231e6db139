"""Compressed data that is not what it says, against a whole node with eth2's transform: hostile cases 70 to 72."""

import hashlib

import cramjam
import pytest

from pyp2p import StrictNoSign
from pyp2p.cli.eth2 import settings
from pyp2p.pubsub.wire import frame, publish_fragment
from pyp2p.testing import Sim, simulated
from tests.hostile.gossip_arena import TOPIC, gossip_arena
from tests.hostile.test_gossip_rpcs import field
from tests.switch.support import until

pytestmark = pytest.mark.hostile


def eth2() -> dict:
    options = settings()
    assert isinstance(options["policy"], StrictNoSign)
    return options


def message(data: bytes) -> bytes:
    return publish_fragment(field(2, data) + field(4, TOPIC.encode()))


BAD = {
    "070 a header of 4 GiB": b"\xff\xff\xff\xff\x0f" + b"x" * 100,
    "071 64 MiB of zeros": bytes(cramjam.snappy.compress_raw(bytes(64 << 20))),
    "071 just over the limit": bytes(cramjam.snappy.compress_raw(bytes((10 << 20) + 1))),
    "072 no snappy at all": b"this is plain text",
    "072 cut off": bytes(cramjam.snappy.compress_raw(b"hello" * 100))[:-3],
    "072 nothing": b"",
}


@pytest.mark.parametrize("name", BAD)
@simulated(seeds=(1,))
async def test_hostile_070_071_072_bad_compression_is_rejected_under_an_id_of_its_own(sim: Sim, name: str) -> None:
    async with gossip_arena(sim, **eth2()) as arena:
        data = BAD[name]
        await arena.evil.listen()
        await arena.evil.write(frame(message(data)))
        await until(lambda: arena.a.counters["rejected", TOPIC] == 1)
        assert arena.score.topics[TOPIC].p4 == 1
        topic = TOPIC.encode()
        invalid = b"\x00\x00\x00\x00" + len(topic).to_bytes(8, "little") + topic + data
        assert hashlib.sha256(invalid).digest()[:20] in arena.a._router.seen
        await arena.evil.say(message(data))  # known by that id: blamed again, not looked into again
        await until(lambda: arena.a.counters["duplicate", TOPIC] == 1)


@simulated(seeds=(1,))
async def test_hostile_072_two_encodings_of_one_payload_are_one_message(sim: Sim) -> None:
    async with gossip_arena(sim, **eth2()) as arena:
        payload = b"the same payload, twice " * 4
        plain = bytes((len(payload),)) + b"\xf0" + bytes((len(payload) - 1,)) + payload  # one literal
        longer = bytes((len(payload) | 0x80, 0x80, 0)) + plain[1:]  # the length takes three bytes
        await arena.evil.listen()
        for data in (plain, longer, bytes(cramjam.snappy.compress_raw(payload))):
            await arena.evil.say(message(data))
        await until(lambda: arena.a.counters["duplicate", TOPIC] == 2)
        assert arena.a.counters["rejected", TOPIC] == 0
        assert arena.score.total >= 0
