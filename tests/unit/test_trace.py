"""Traces: steps, times, flights, waits and their bounds."""

import json

from pyp2p.trace import MAX_FLIGHTS, MAX_STEPS, Stage, Step, Trace


def test_stages_stand_in_the_order_in_which_they_happen() -> None:
    orders = [stage.order for stage in Stage]
    assert orders == sorted(orders)
    assert Stage.RESOLVE.order < Stage.CONNECT.order < Stage.HANDSHAKE.order < Stage.IDENTIFY.order


def test_a_step_ends_when_the_next_begins_and_only_once() -> None:
    trace = Trace()
    connect = trace.begin(Stage.CONNECT, "/ip4/1.2.3.4/tcp/1", 10.0)
    assert (trace.stage, trace.current, connect.ended) == (Stage.CONNECT, connect, None)
    handshake = trace.begin(Stage.HANDSHAKE, "/noise", 10.5)
    assert connect.ended == 10.5
    trace.finish(11.0)
    trace.finish(12.0)
    assert handshake.ended == 11.0
    assert trace.steps == [connect, handshake]


def test_a_trace_without_steps_has_a_stage_and_no_json() -> None:
    trace = Trace()
    assert trace.stage is Stage.RESOLVE
    assert trace.round_trips == 0
    assert trace.as_json() == []
    trace.finish(1.0)
    assert trace.steps == []


def test_two_traces_share_nothing() -> None:
    one, other = Trace(), Trace()
    one.begin(Stage.CONNECT, "", 0.0)
    one.current.sent(1, 0.0)
    assert other.steps == []
    assert other.current.bytes_out == 0


def test_bytes_and_waits_are_counted_by_step_and_in_all() -> None:
    trace = Trace()
    trace.begin(Stage.CONNECT, "", 0.0).waits += 1
    step = trace.begin(Stage.HANDSHAKE, "", 1.0)
    step.sent(100, 1.0)
    step.received(40, 1.1)
    step.received(2, 1.2)
    step.sent(7, 1.3, wait=False)
    assert (step.bytes_out, step.bytes_in, step.waits) == (107, 42, 1)
    assert step.flights == [(1.0, 100), (1.1, -40), (1.2, -2), (1.3, 7)]
    assert trace.round_trips == 2


def test_json_counts_milliseconds_from_the_first_step() -> None:
    trace = Trace()
    trace.begin(Stage.CONNECT, "there", 100.0)
    step = trace.begin(Stage.HANDSHAKE, "/noise", 100.25)
    step.sent(100, 100.25)
    step.received(40, 100.5)
    trace.finish(100.75)
    connect, handshake = trace.as_json()
    assert (connect["at_ms"], connect["ms"], connect["flights"]) == (0.0, 250.0, [])
    assert handshake == {
        "stage": "handshake",
        "detail": "/noise",
        "at_ms": 250.0,
        "ms": 500.0,
        "bytes_out": 100,
        "bytes_in": 40,
        "flights": [{"ms": 250.0, "out": 100}, {"ms": 500.0, "in": 40}],
    }
    json.dumps(trace.as_json())


def test_an_open_step_has_lasted_no_time_yet() -> None:
    assert Step(Stage.CONNECT, "", 5.0).as_json(5.0)["ms"] == 0


def test_a_trace_does_not_grow_with_what_the_peer_does() -> None:
    trace = Trace()
    for n in range(3 * MAX_STEPS):
        step = trace.begin(Stage.PROTOCOL, str(n), float(n))
    assert len(trace.steps) == MAX_STEPS
    assert trace.steps[-1].ended == MAX_STEPS  # the last one kept ends when its successor began, kept or not
    assert trace.current is step
    for n in range(3 * MAX_FLIGHTS):
        step.sent(1, float(n))
        step.received(2, float(n))
    assert len(step.flights) == MAX_FLIGHTS
    assert (step.bytes_out, step.bytes_in) == (3 * MAX_FLIGHTS, 6 * MAX_FLIGHTS)
