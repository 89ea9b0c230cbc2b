"""The cache of model files: what it holds is what it says, is never too much, and is shared."""

import errno
import hashlib
import os
import subprocess
import sys
from contextlib import closing

import pytest

from inference_server import cache as cache_module
from inference_server.cache import ModelCache
from inference_server.errors import ModelRefused


def content(number, size=1000):
    return bytes([number]) * size


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path):
    return ModelCache(tmp_path / "cache", 2500)


def put(cache, data):
    with closing(cache.begin(digest(data), len(data))) as part:
        part.write(data)
        assert part.finish() == digest(data)


def cached(cache, data):
    """Whether the cache gives `data`; it is not held."""
    held = cache.take(digest(data))
    if held is None:
        return False
    assert held.path.read_bytes() == data
    held.release()
    return True


def names(cache):
    return sorted(path.name for path in cache.folder.iterdir())


def age(cache, data, seconds):
    """Let `data` have been used for the last time so long ago."""
    path = cache.folder / f"{digest(data)}.onnx"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def test_what_was_put_in_comes_out(cache):
    data = content(1)
    assert cache.take(digest(data)) is None
    put(cache, data)
    assert cached(cache, data)
    assert names(cache) == [f"{digest(data)}.onnx", "lock"]
    assert cache.begin(digest(data), len(data)) is None


def test_an_unfinished_file_is_gone_on_with(cache):
    data = content(1, 900) + content(2, 100)
    with closing(cache.begin(digest(data), 1000)) as part:
        part.write(data[:700])
    assert not cached(cache, data)
    with closing(cache.begin(digest(data), 1000)) as part:
        assert part.position == 700
        part.write(data[700:])
        part.finish()
    assert cached(cache, data)


@pytest.mark.parametrize("arrived", [content(2), content(1, 999), b""])
def test_what_is_not_the_file_is_not_kept(cache, arrived):
    with closing(cache.begin(digest(content(1)), 1000)) as part:
        part.write(arrived)
        assert part.finish() == digest(arrived)
    assert names(cache) == ["lock"]


def test_more_than_was_announced_is_not_kept(cache):
    with closing(cache.begin(digest(content(1)), 1000)) as part:
        part.write(content(1, 600))
        with pytest.raises(ModelRefused, match="size_bytes: expected 1000"):
            part.write(content(1, 401))
    assert names(cache) == ["lock"]


def test_a_damaged_file_is_removed(cache):
    put(cache, content(1))
    (cache.folder / f"{digest(content(1))}.onnx").write_bytes(content(1, 999) + b"?")
    assert cache.take(digest(content(1))) is None
    assert names(cache) == ["lock"]


def test_what_was_used_longest_ago_makes_room(cache):
    for number, seconds in ((1, 30), (2, 20)):
        put(cache, content(number))
        age(cache, content(number), seconds)
    assert cached(cache, content(1))  # which is a use
    put(cache, content(3))
    assert [cached(cache, content(number)) for number in (1, 2, 3)] == [True, False, True]


def test_what_is_held_stays(cache):
    for number in (1, 2):
        put(cache, content(number))
    held = cache.take(digest(content(1)))
    for number, seconds in ((1, 30), (2, 20)):
        age(cache, content(number), seconds)
    put(cache, content(3))
    assert [cached(cache, content(number)) for number in (1, 2, 3)] == [True, False, True]
    with closing(cache.begin(digest(content(4, 1400)), 1400)), pytest.raises(ModelRefused, match="leaves 100 of"):
        cache.begin(digest(content(5, 101)), 101)
    held.release()
    held.release()
    put(cache, content(6, 2500))
    assert names(cache) == [f"{digest(content(6, 2500))}.onnx", "lock"]


def test_a_file_on_its_way_counts_as_a_whole_one_until_it_is_given_up(cache):
    with closing(cache.begin(digest(content(1)), 1000)) as part:
        part.write(b"x")
        put(cache, content(2, 1500))
        held = cache.take(digest(content(2, 1500)))
        with pytest.raises(ModelRefused, match="leaves 0 of"):
            cache.begin(digest(content(3)), 1000)
        held.release()
    put(cache, content(3, 2000))
    assert names(cache) == [f"{digest(content(3, 2000))}.onnx", "lock"]


@pytest.mark.parametrize("size", [0, -1, 2501])
def test_what_can_never_fit_is_refused(cache, size):
    with pytest.raises(ModelRefused, match=r"--max-cache-bytes"):
        cache.begin(digest(b""), size)


@pytest.mark.parametrize("sha256", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n", "/etc/passwd"])
def test_a_digest_that_is_none_is_refused(cache, sha256):
    for use in (cache.take, lambda value: cache.begin(value, 1)):
        with pytest.raises(ModelRefused, match="sha256: expected 64"):
            use(sha256)


def test_a_link_is_not_followed(cache, tmp_path):
    cache.folder.mkdir()
    (tmp_path / "secret").write_bytes(content(1))
    (cache.folder / f"{digest(content(1))}.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        cache.take(digest(content(1)))


def test_files_of_other_names_are_left_alone(cache):
    cache.folder.mkdir()
    (cache.folder / "notes.txt").write_bytes(content(1, 10_000))
    (cache.folder / "model.onnx").write_bytes(content(1, 10_000))
    put(cache, content(1, 2500))
    assert names(cache) == [f"{digest(content(1, 2500))}.onnx", "lock", "model.onnx", "notes.txt"]


def test_a_full_disk_is_an_error_that_keeps_nothing_wrong(cache, monkeypatch):
    data = content(1)
    with closing(cache.begin(digest(data), 1000)) as part:
        with monkeypatch.context() as patch:
            patch.setattr(cache_module.os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            with pytest.raises(OSError, match="full"):
                part.write(data)
        part.discard()
    assert names(cache) == ["lock"]


OTHER = """
import sys
from pathlib import Path
from inference_server.cache import ModelCache
cache = ModelCache(Path(sys.argv[1]), 2500)
held = cache.take(sys.argv[2])
part = cache.begin(sys.argv[3], 1000)
part.write(b"x")
print("ready", flush=True)
sys.stdin.read()
"""


def test_another_process_holds_until_it_dies(cache):
    put(cache, content(1))
    command = [sys.executable, "-c", OTHER, str(cache.folder), digest(content(1)), digest(content(2))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        assert cache.begin(digest(content(2)), 1000) is None
        with pytest.raises(ModelRefused, match="leaves 500 of"):
            cache.begin(digest(content(3)), 1000)
        assert cached(cache, content(1))
        other.kill()
    with closing(cache.begin(digest(content(2)), 1000)) as part:
        assert part.position == 1
    put(cache, content(3, 2500))
    assert names(cache) == [f"{digest(content(3, 2500))}.onnx", "lock"]
