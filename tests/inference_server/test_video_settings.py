"""The flags that say which videos are taken."""

import click
import pytest
from click.testing import CliRunner

from inference_server import settings
from inference_server.video import DecoderSettings
from inference_server.video.containers import DEFAULT_CONTAINERS


@pytest.fixture
def given():
    """A function that gives the settings of decoders for flags and environment, or what the program says instead."""

    def given(*flags, **environment):
        seen = []

        @click.command()
        @settings.options
        def command(listen, metrics, grace_seconds, log_level, log_format, **rest):
            seen.append(settings.settings(grace_seconds=grace_seconds, **rest).decoders)

        names = {f"VIDEOAI_INFERENCE_{name}": value for name, value in environment.items()}
        outcome = CliRunner().invoke(command, flags, env=names)
        return seen[0] if seen else outcome.output

    return given


def test_without_flags_the_defaults_hold(given):
    assert given() == DecoderSettings()


def test_a_list_that_is_given_is_the_whole_one_and_default_stands_for_the_default_one(given):
    assert given("--allow-codec", "vp9", "--allow-codec", "vp9").codecs == ("vp9",)
    assert given(ALLOW_CONTAINER="ogg default").containers == ("ogg", *DEFAULT_CONTAINERS)


def test_limits_come_from_flags_and_from_the_environment(given):
    found = given("--max-pixels", "921600", MAX_VIDEO_FRAMES="1000", MAX_TRACKS="8")
    assert (found.max_pixels, found.max_video_frames, found.max_tracks) == (921_600, 1000, 8)
    assert given("--decode-threads", "3").threads == given(DECODE_THREADS="3").threads == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--allow-container", "hls"), "expected default, asf, avi, flv"),
        (("--allow-codec", "h265"), "got 'h265'"),
        (("--max-tracks", "5000"), "max_tracks: expected 1..1000, got 5000"),
        (("--max-pixels", "0"), "--max-pixels"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_start(given, flags, said):
    assert said in " ".join(given(*flags).replace("│", "").split())
