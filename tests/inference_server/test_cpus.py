"""How many processors are counted."""

import pytest

from inference_server.cpus import _quota, usable_cpus


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000\n", None), ("200000 100000\n", 2), ("150000 100000\n", 2), ("50000 100000\n", 1)]
)
def test_a_container_s_quota_is_whole_cpus(tmp_path, text, cpus):
    (tmp_path / "cpu.max").write_text(text)
    assert _quota(tmp_path / "cpu.max") == cpus


def test_no_quota_is_no_limit(tmp_path):
    assert _quota(tmp_path / "cpu.max") is None
    assert usable_cpus() >= 1
