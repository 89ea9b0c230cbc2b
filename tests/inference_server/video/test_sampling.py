"""Which frames are chosen, and what time it is."""

from __future__ import annotations

from fractions import Fraction

import pytest

from inference_server.video import StreamRequest
from inference_server.video.sampling import Choice, Clock, Sampler


def chosen(request: StreamRequest, times: list[float]) -> list[int]:
    sampler = Sampler(request)
    found = []
    for index, seconds in enumerate(times):
        match sampler.choose(index, seconds):
            case Choice.TAKE:
                found.append(index)
            case Choice.STOP:
                break
    return found


STEADY = [i / 25 for i in range(50)]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (StreamRequest(), list(range(50))),
        (StreamRequest(stride=20), [0, 20, 40]),
        (StreamRequest(stride=20, start_seconds=0.5), [20, 40]),
        (StreamRequest(start_seconds=0.2, end_seconds=0.4), [5, 6, 7, 8, 9]),
        (StreamRequest(frames_per_second=5), list(range(0, 50, 5))),
        (
            StreamRequest(frames_per_second=10),
            [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38, 40, 43, 45, 48],
        ),
        (StreamRequest(frames_per_second=25), list(range(50))),
        (StreamRequest(frames_per_second=1000), list(range(50))),
        (StreamRequest(frames_per_second=1, start_seconds=0.5), [13, 25]),
    ],
)
def test_choice(request_: StreamRequest, expected: list[int]) -> None:
    assert chosen(request_, STEADY) == expected


def test_a_rate_goes_by_time_and_never_takes_two_frames_of_one_slot() -> None:
    assert chosen(StreamRequest(frames_per_second=2), [0, 0.1, 0.9, 0.2, 1.0, 0.6, 7.0, 7.1]) == [0, 2, 4, 6]


def test_the_clock_starts_at_the_first_frame_and_fills_in_for_missing_timestamps() -> None:
    clock, tick = Clock(10.0), Fraction(1, 1000)
    times = [clock.seconds(pts, tick) for pts in (5000, 5100, None, None, 5500)]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.5])


def test_the_clock_stands_still_for_frames_out_of_order_and_repeated() -> None:
    clock, tick = Clock(10.0), Fraction(1, 1000)
    times = [clock.seconds(pts, tick) for pts in (0, 300, 100, 300, 200, 400)]
    assert times == pytest.approx([0, 0.3, 0.3, 0.3, 0.3, 0.4])


def test_timestamps_that_begin_anew_go_on_where_the_clock_was() -> None:
    clock, tick = Clock(10.0), Fraction(1, 1000)
    times = [clock.seconds(pts, tick) for pts in (9000, 12000, 0, 100, None, -5000, -4900)]
    assert times == pytest.approx([0, 3, 3.1, 3.2, 3.3, 3.4, 3.5])


def test_the_clock_without_any_timestamps_goes_by_the_frame_rate() -> None:
    clock = Clock(50.0)
    assert [clock.seconds(None, Fraction(1)) for _ in range(3)] == pytest.approx([0, 0.02, 0.04])


def test_a_first_timestamp_that_comes_late_continues_the_count() -> None:
    clock, tick = Clock(10.0), Fraction(1, 1000)
    assert [clock.seconds(pts, tick) for pts in (None, None, 9000, 9100)] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"stride": 0}, "stride"),
        ({"frames_per_second": 0.0}, "frames_per_second"),
        ({"frames_per_second": float("nan")}, "frames_per_second"),
        ({"frames_per_second": 1e308}, "frames_per_second"),
        ({"stride": 2, "frames_per_second": 1.0}, "stride, frames_per_second"),
        ({"start_seconds": -1.0}, "start_seconds"),
        ({"start_seconds": 1.0, "end_seconds": 1.0}, "end_seconds"),
        ({"max_frames": -1}, "max_frames"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(fields: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        StreamRequest(**fields)  # type: ignore[arg-type]
