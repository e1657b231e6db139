"""The lines of a node: names, facts, words; and that nobody waits for whoever reads them."""

import io
import json
from typing import Any

from pyp2p.beacon.containers import StatusV1, StatusV2
from pyp2p.beacon.events import DialFailed, ForkChanged, PeerConnected, PeerDisconnected, SubnetsChanged, Warned
from pyp2p.beacon.gossip import GossipMessage
from pyp2p.cli.node_events import BEHIND, RECENT, WARNINGS, Feed, network_event, tell_gossip, warning
from pyp2p.cli.output import Output
from pyp2p.peer.id import PeerId
from pyp2p.peer.keys import Identity
from pyp2p.testing.run import SeededEntropy

PEER = PeerId.from_key(Identity.generate(entropy=SeededEntropy("peer")).public_key)
STATUS = StatusV1(bytes(4), bytes(32), 3, b"\x01" * 32, 99)


def feed_of(out: io.StringIO, **more: Any) -> Feed:
    return Feed(Output(as_json=True, stdout=out, stderr=None, environ={}), lambda: 12.5, **more)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_peer_is_told_with_its_client_direction_address_and_status() -> None:
    name, facts, line = network_event(
        PeerConnected(PEER, "lighthouse/v8", True, "/ip4/1.2.3.4/tcp/9000", "tcp", STATUS)
    )
    assert name == "peer_connected"
    assert (facts["peer_id"], facts["client"], facts["direction"]) == (str(PEER), "lighthouse/v8", "outbound")
    assert facts["address"] == "/ip4/1.2.3.4/tcp/9000"
    assert facts["status"] == {
        "fork_digest": "00000000",
        "finalized_root": "00" * 32,
        "finalized_epoch": 3,
        "head_root": "01" * 32,
        "head_slot": 99,
    }
    assert "lighthouse/v8, outbound at /ip4/1.2.3.4/tcp/9000, head at slot 99" in line
    newer = StatusV2(bytes(4), bytes(32), 3, bytes(32), 99, 7)
    _, facts, _ = network_event(PeerConnected(PEER, None, False, "/x", "quic-v1", newer))
    assert (facts["client"], facts["direction"]) == (None, "inbound")
    assert facts["status"]["earliest_available_slot"] == 7
    assert network_event(PeerConnected(PEER, None, False, "/x", "tcp", None))[1]["status"] is None


def test_other_events_have_their_names_and_facts() -> None:
    told = [
        network_event(event)
        for event in (
            PeerDisconnected(PEER, "it said goodbye: too many peers", "peer", 129),
            PeerDisconnected(PEER, "eof", "network", None),
            DialFailed(PEER, "connect", "refused"),
            ForkChanged(4, "deneb", b"\x01\x02\x03\x04"),
            SubnetsChanged((1, 2), (), 5),
            Warned("careful"),
        )
    ]
    assert [name for name, _, _ in told] == [
        *("peer_disconnected", "peer_disconnected", "dial_failed", "fork", "subnets", "warning")
    ]
    assert told[0][1] == {
        "peer_id": str(PEER),
        "reason": "it said goodbye: too many peers",
        "by": "peer",
        "goodbye": {"code": 129, "text": "too many peers"},
    }
    assert told[0][2] == f"disconnected  {PEER} by peer: it said goodbye: too many peers"  # said once
    assert told[1][1]["goodbye"] is None
    assert told[2][1] == {"peer_id": str(PEER), "stage": "connect", "reason": "refused"}
    assert told[3][1] == {"epoch": 4, "fork": "deneb", "fork_digest": "01020304"}
    assert told[4][1] == {"attnets": [1, 2], "syncnets": [], "metadata_seq": 5}
    assert told[5][1] == {"text": "careful"}


def test_what_peers_say_is_escaped_and_bounded() -> None:
    _, facts, line = network_event(PeerConnected(PEER, "\x1b[2J" + "x" * 10_000, True, "/x", "tcp", None))
    assert "\x1b" not in line
    assert len(line) < 500
    assert "\x1b" not in facts["client"]
    _, facts, line = warning("\x1b]0;\x07" + "y" * 100_000)
    assert line.isprintable()
    assert len(line) < 1200


def test_each_detail_of_a_warning_has_a_line() -> None:
    _, facts, line = warning("none was reached", ["one: no answer", "two: \x1b[2J\n"])
    assert facts == {"text": "none was reached", "details": ["one: no answer", "two: \\x1b[2J\\n"]}
    assert [each.strip() for each in line.splitlines()] == ["warning       none was reached", *facts["details"]]


def message(payload: bytes, kind: str = "beacon_block") -> GossipMessage:
    return GossipMessage(kind, None, "deneb", bytes(4), payload, f"/eth2/00000000/{kind}/ssz_snappy", PEER)


def test_gossip_is_told_with_topic_size_and_the_slot_of_a_block() -> None:
    out = io.StringIO()
    feed = feed_of(out)
    block = (100).to_bytes(4, "little") + bytes(96) + (77).to_bytes(8, "little") + bytes(100)
    tell_gossip(message(block), feed)
    tell_gossip(message(b"too short"), feed)
    tell_gossip(message(bytes(112), "voluntary_exit"), feed)
    feed.end(None, 1.0)
    told = lines(out)
    assert [line["slot"] for line in told] == [77, None, None]
    assert [line["size"] for line in told] == [len(block), 9, 112]
    assert told[0]["topic"] == "/eth2/00000000/beacon_block/ssz_snappy"
    assert (told[0]["time"], told[0]["from"], told[0]["type"]) == (12.5, str(PEER), "beacon_block")
    assert feed.gossip == {told[0]["topic"]: 2, told[2]["topic"]: 1}


def test_lines_that_nobody_reads_are_missed_from_some_number_on_and_counted() -> None:
    out = io.StringIO()
    feed = feed_of(out)
    for number in range(BEHIND + 10):
        feed.tell("block", {"number": number}, "block")
    assert feed.missed == 10
    feed.end(None, 1.0)
    assert [line["number"] for line in lines(out)] == list(range(BEHIND))


def test_a_live_view_gets_the_last_lines_and_nothing_is_printed() -> None:
    out = io.StringIO()
    feed = feed_of(out, lines=False)
    for number in range(100):
        feed.tell("block", {}, f"block {number}")
        feed.tell("gossip", {}, "gossip")
        feed.tell(*warning(f"careful {number}"))
    feed.end(None, 1.0)
    assert not out.getvalue()
    assert list(feed.recent) == [f"block {number}" for number in range(100 - RECENT, 100)]
    assert len(feed.warnings) == WARNINGS
    assert feed.missed == 0
