"""An activation that goes wrong is undone by the command that made it."""

import os
import signal
import subprocess
import sys

from harness import NAME


def activate_and_wait(pair, *arguments):
    command = [sys.executable, "-m", "videoai", "--registry", pair.registry_address, "models", "activate", NAME]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, *arguments, "--wait"], env=os.environ.copy(), stdout=pipe, stderr=pipe, text=True
    )


def test_a_rejected_version_is_rolled_back_by_itself(serving_v1):
    """The file is spoiled once the activation stands and before the replica, which sleeps till then, reads it."""
    pair = serving_v1
    pair.inference_process.send(signal.SIGSTOP)
    with activate_and_wait(pair, "2", "--rollback-on-failure") as process:
        first = process.stderr.readline()
        assert "version 2 is in production, version 1 before" in first
        (pair.root / "models" / NAME / "v2" / "model.onnx").unlink()
        pair.inference_process.send(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1].endswith("; went back to version 1")
    assert "was rejected by" in err.splitlines()[-1]
    assert "version 1 in production" in out
    assert pair.wait_until_running(1).seen_version == 1


def test_waiting_ends_when_the_replica_answers_with_the_version(serving_v1):
    for version in (2, 2, 1):  # the second time there is nothing to do
        with activate_and_wait(serving_v1, str(version)) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert serving_v1.serving().running_version == version
