"""Process groups: the whole of one is ended, whatever it does meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from callpool.host.process import end_group, group_members, identify

#: A leader that goes on forking, as a Kamailio does that is killed while it starts.
FORKING = """
import os, signal, time
for _ in range(2000):
    if os.fork() == 0:
        signal.alarm(120)
        time.sleep(300)
    time.sleep(0.001)
"""


def test_a_group_whose_leader_forks_while_it_is_ended_leaves_nobody(tmp_path: Path) -> None:
    argument = str(tmp_path / "its.cfg")
    child = subprocess.Popen([sys.executable, "-c", FORKING, argument], start_new_session=True)
    try:
        leader = identify(child.pid)
        assert leader is not None
        deadline = time.monotonic() + 60
        while len(group_members(leader, argument)) < 20:
            assert time.monotonic() < deadline
        assert end_group(leader, argument, limit=30)
        assert group_members(leader, argument) == []
    finally:
        # Ours for certain: the number is not given out again before it is waited for.
        child.send_signal(signal.SIGKILL)
        child.wait()
