"""The systemd units: well-formed, tight, and programs that work within what these leave them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from callpool.device.control import ask
from callpool.device.settings import Layout
from callpool.host.ports import free_port
from callpool.host.process import ProcessId, end_group, identify
from callpool.licensing.errors import CallpoolError

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "packaging" / "systemd"
SERVICES = ("callpool-manager.service", "callpool-device.service")
CALLPOOL = (sys.executable, "-m", "callpool")
#: The highest exposure by `systemd-analyze security`, in tenths: 1.6 and 1.8 today.
MOST_EXPOSED = 20
#: What a unit leaves a program, without systemd: the whole system read-only but for one
#: directory, no capability, no new privileges, no memory that is both written and executed.
CONFINED = """
import ctypes, os, subprocess, sys
directory, *words = sys.argv[1:]
def run(*command):
    subprocess.run(command, check=True)
run("mount", "--make-rprivate", "/")
run("mount", "--bind", directory, directory)
lines = open("/proc/self/mounts").read().splitlines()
for point in sorted({line.split()[1] for line in lines}):
    if point.startswith(("/proc", "/sys", "/dev")) or point == directory:
        continue
    subprocess.run(["mount", "-o", "remount,bind,ro", point], stderr=subprocess.DEVNULL)
run("mount", "-t", "tmpfs", "tmpfs", "/tmp") if not directory.startswith("/tmp") else None
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    print("no MDWE:", os.strerror(ctypes.get_errno()), file=sys.stderr)
os.execvp("setpriv", ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs",
                      *words])
"""


def setting(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("unit", SERVICES)
def test_the_units_are_well_formed(unit: str, tmp_path: Path) -> None:
    # The program need not be installed for its unit to be checked: another stands in for it.
    text = (UNITS / unit).read_text()
    copy = tmp_path / unit
    copy.write_text(text.replace("/opt/callpool/bin/callpool", shutil.which("true") or ""))
    checked = analyze("verify", str(copy))
    assert (checked.returncode, checked.stderr) == (0, "")
    wrong = tmp_path / f"wrong-{unit}"
    wrong.write_text(copy.read_text().replace("KillMode=", "KillMood="))
    assert "KillMood" in analyze("verify", str(wrong)).stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_the_sandbox_is_tight(unit: str) -> None:
    judged = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", str(UNITS / unit))
    assert judged.returncode == 0, judged.stdout
    assert analyze("security", "--offline=yes", "--threshold=5", str(UNITS / unit)).returncode


def test_a_core_that_crashes_leaves_kamailio_at_work_under_systemd_too() -> None:
    assert setting("callpool-device.service", "KillMode") == ["process"]
    assert setting("callpool-device.service", "RemoveIPC") == []
    assert setting("callpool-device.service", "Restart") == ["always"]


def test_each_program_has_a_user_of_its_own() -> None:
    made = re.findall(r"^u (\S+)", (UNITS / "callpool.sysusers.conf").read_text(), re.MULTILINE)
    assert sorted(made) == sorted(user for unit in SERVICES for user in setting(unit, "User"))


@contextlib.contextmanager
def confined(directory: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    log = (directory.parent / f"{directory.name}.log").open("w")
    process = subprocess.Popen(
        ["unshare", "--mount", sys.executable, "-c", CONFINED, str(directory), *words],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()
        assert process.stdout is not None
        process.stdout.close()


def run(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [*CALLPOOL, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(condition: object, *, seconds: float = 90.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)


def status_of(pid: int, name: str) -> str:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith(name))


def read_only(pid: int) -> bool:
    """Tell whether the process sees its system read-only."""
    mounts = Path(f"/proc/{pid}/mounts").read_text().splitlines()
    root = [line.split() for line in mounts if line.split()[1] == "/"]
    return bool(root) and "ro" in root[-1][3].split(",")


def test_the_manager_works_without_a_capability_on_a_read_only_system(tmp_path: Path) -> None:
    directory = tmp_path / "manager"
    run("manager", "init", "--dir", str(directory), "--listen", f"127.0.0.1:{free_port()}")
    with confined(directory, *CALLPOOL, "manager", "run", "--dir", str(directory)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("callpool manager: "), line
        url = line.split()[-1]
        context = ssl.create_default_context(cafile=str(directory / "identity" / "ca.pem"))
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(f"{url}/api/v1/pool", context=context, timeout=30)  # noqa: S310  ours
        assert answer.value.code == 401
        answer.value.close()
        assert int(status_of(process.pid, "CapEff"), 16) == 0
        assert status_of(process.pid, "NoNewPrivs") == "1"
        assert read_only(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert "no MDWE" not in (tmp_path / "manager.log").read_text()


def test_the_device_and_its_kamailio_work_without_a_capability_on_a_read_only_system(
    tmp_path: Path,
) -> None:
    directory, sip = tmp_path / "device", free_port()
    run(
        "device", "init", "--dir", str(directory), "--serial", "SN-1",
        "--listen", f"udp:127.0.0.1:{sip}", "--destination", "127.0.0.1:5999",
        "--pages", f"127.0.0.1:{free_port()}",
    )  # fmt: skip
    socket = Layout(directory).control

    def answers() -> bool:
        with contextlib.suppress(CallpoolError):
            return bool(ask(socket, "calls", timeout=5.0)["alive"])
        return False

    leader: ProcessId | None = None
    try:
        with confined(directory, *CALLPOOL, "device", "run", "--dir", str(directory)) as process:
            until(answers)
            kamailio = int(ask(socket, "running", timeout=5.0)["kamailio_pid"])
            leader = identify(kamailio)
            assert leader is not None
            assert read_only(process.pid)
            for pid in (process.pid, kamailio):
                assert int(status_of(pid, "CapEff"), 16) == 0
            # Killed as by a crash, Kamailio stays; the next core takes it over.
            process.kill()
            process.wait()
            assert identify(kamailio) == leader
        with confined(directory, *CALLPOOL, "device", "run", "--dir", str(directory)) as process:
            until(answers)
            assert int(ask(socket, "running", timeout=5.0)["kamailio_pid"]) == kamailio
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        until(lambda: identify(kamailio) != leader)
    finally:
        if leader is not None:
            end_group(leader, str(directory / "gate" / "kamailio.cfg"))
