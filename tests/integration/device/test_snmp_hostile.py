"""What a stranger gets of a real device's SNMP agent: silence, the standard's Report, no value."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from devicekit import eventually, site
from snmpkit import AUTH, COMMUNITY, PRIVACY, USER, V2C, V3, Snmp, environment

SYS_DESCR = ".1.3.6.1.2.1.1.1.0"
BAD_COMMUNITIES = ".1.3.6.1.2.1.11.4.0"
PARSE_ERRORS = ".1.3.6.1.2.1.11.6.0"
#: usmStats of SNMP-USER-BASED-SM-MIB: what a Report names.
USM = "1.3.6.1.6.3.15.1.1."
UNSUPPORTED_LEVEL, NOT_IN_TIME, UNKNOWN_USER, UNKNOWN_ENGINE, WRONG_DIGEST, DECRYPTION = (
    f"{USM}{n}.0" for n in range(1, 7)
)
#: Reports of the message processing itself (snmpMPDStats, snmpTargetMIB's contexts).
MPD = ("1.3.6.1.6.3.11.2.1.", "1.3.6.1.6.3.12.1.")

#: Mutated packets: a few to warm up with, and those that count.
WARM, MANY = 500, 10_000
#: MiB that the agent's memory may have grown by after them, once it is warm.
GROWTH = 4.0


@pytest.fixture(scope="module")
def snmp(module_path: Path) -> Iterator[Snmp]:
    with site(module_path) as made:
        device = made.device("h")
        served = Snmp(device)
        device.start()
        eventually(served.answers)
        yield served


def changed(old: str, new: str) -> tuple[str, ...]:
    """The right credentials with one word changed."""
    return tuple(new if word == old else word for word in V3)


def test_a_wrong_community_and_v1_get_silence_and_are_counted(snmp: Snmp) -> None:
    before = int(snmp.get(BAD_COMMUNITIES))
    for wrong in (("-v2c", "-c", "public"), ("-v2c", "-c", ""), ("-v1", "-c", COMMUNITY)):
        said, exchanged = through(snmp, *wrong)
        assert "No Response" in said, wrong
        assert exchanged
        assert not any(answers for _, answers in exchanged), "not one octet"
    # They are refreshed twice a second; each was asked for twice, v1 is not a community's.
    eventually(lambda: int(snmp.get(BAD_COMMUNITIES)) >= before + 4)


@pytest.mark.parametrize(
    ("credentials", "said", "oid"),
    [
        (changed(USER, "nobody"), "Unknown user name", UNKNOWN_USER),
        (changed(AUTH, "wrong-secret"), "Authentication failure", WRONG_DIGEST),
        (changed(PRIVACY, "wrong-secret"), "Decryption error", DECRYPTION),
        (("-v3", "-u", USER, "-l", "noAuthNoPriv"), "Unsupported security", UNSUPPORTED_LEVEL),
        (
            changed("authPriv", "authNoPriv")[: V3.index("-x")],
            "Unsupported security",
            UNSUPPORTED_LEVEL,
        ),
    ],
    ids=["user", "password", "privacy", "noAuth", "authNoPriv"],
)
def test_wrong_credentials_of_v3_get_the_report_of_the_standard(
    snmp: Snmp, credentials: tuple[str, ...], said: str, oid: str
) -> None:
    before = int(snmp.get(f".{oid}"))
    heard, exchanged = through(snmp, *credentials)
    assert said in heard, heard
    assert "callpool" not in heard
    # First discovery (RFC 3414, 4), then what is wrong: a Report of one counter each.
    reports = [report(answer) for _, answers in exchanged for answer in answers]
    assert reports[0][0] == UNKNOWN_ENGINE
    assert [found for found, _ in reports[1:]] == [oid] * (len(reports) - 1)
    assert len(reports) > 1
    assert reports[-1][1] > before, "the counter's value is in it"
    eventually(lambda: int(snmp.get(f".{oid}")) >= reports[-1][1])


def test_a_recorded_packet_is_worth_nothing_after_a_start_of_the_agent(snmp: Snmp) -> None:
    said, exchanged = through(snmp, *V3)
    assert "callpool" in said
    recorded = exchanged[-1][0]
    assert encrypted(recorded)
    faces = snmp.device.running()["faces_pid"]
    os.kill(faces, signal.SIGKILL)
    eventually(lambda: snmp.device.running()["faces_pid"] not in (0, faces))
    eventually(snmp.answers)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        attacker.settimeout(10)
        attacker.sendto(recorded, ("127.0.0.1", snmp.port))
        assert report(attacker.recv(65535))[0] == NOT_IN_TIME


def report(answer: bytes) -> tuple[str, int]:
    """OID and value of the one variable in a Report-PDU that is not encrypted."""
    [(_, message)] = elements(answer)
    _, _, _, (kind, scoped) = elements(message)
    assert kind == SEQUENCE, "an answer that is encrypted is no Report to a stranger"
    _, _, (pdu, content) = elements(scoped)
    assert pdu == REPORT, hex(pdu)
    *_, (_, binds) = elements(content)
    [(_, bind)] = elements(binds)
    (_, name), (_, counter) = elements(bind)
    return dotted(name), int.from_bytes(counter, "big")


def encrypted(packet: bytes) -> bool:
    """Whether a v3 message's PDU is encrypted."""
    [(_, message)] = elements(packet)
    return elements(message)[3][0] == OCTETS


#: Tags of BER.
OCTETS, SEQUENCE, RESPONSE, REPORT = 0x04, 0x30, 0xA2, 0xA8


def elements(content: bytes) -> list[tuple[int, bytes]]:
    """(tag, content) of each element, read without any SNMP library."""
    found = []
    while content:
        tag, length, at = content[0], content[1], 2
        if length > 0x80:
            at += length - 0x80
            length = int.from_bytes(content[2:at], "big")
        assert at + length <= len(content), "cut off"
        found.append((tag, content[at : at + length]))
        content = content[at + length :]
    return found


def dotted(name: bytes) -> str:
    """An OBJECT IDENTIFIER in digits."""
    arcs, arc = [], 0
    for octet in name:
        arc = arc << 7 | octet & 0x7F
        if octet < 0x80:
            arcs.append(arc)
            arc = 0
    return ".".join(map(str, (arcs[0] // 40, arcs[0] % 40, *arcs[1:])))


def through(snmp: Snmp, *credentials: str) -> tuple[str, list[tuple[bytes, list[bytes]]]]:
    """What snmpget says, and every packet of it with the agent's answers to it."""
    exchanged: list[tuple[bytes, list[bytes]]] = []
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as middle,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as onward,
    ):
        middle.bind(("127.0.0.1", 0))
        middle.settimeout(0.05)
        onward.settimeout(0.05)
        source = None
        words = ["snmpget", "-r1", "-t2", "-OnQ", *credentials,
                 f"127.0.0.1:{middle.getsockname()[1]}", SYS_DESCR]  # fmt: skip
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(
                subprocess.run, words, capture_output=True, text=True, timeout=60,
                env=environment(snmp.home),
            )  # fmt: skip
            while not reading.done():
                with contextlib.suppress(TimeoutError):
                    packet, source = middle.recvfrom(65535)
                    exchanged.append((packet, []))
                    onward.sendto(packet, ("127.0.0.1", snmp.port))
                with contextlib.suppress(TimeoutError):
                    answer = onward.recv(65535)
                    exchanged[-1][1].append(answer)
                    if source is not None:
                        middle.sendto(answer, source)
            done = reading.result()
    return done.stdout + done.stderr, exchanged


def test_10000_mutated_packets_crash_nothing_disclose_nothing_and_cost_no_memory(
    snmp: Snmp,
) -> None:
    assert snmp.device.process is not None
    faces = snmp.device.running()["faces_pid"]
    said = len(snmp.device.process.said())
    valid = [packet for words in (V2C, V3) for packet, _ in through(snmp, *words)[1]]
    assert len(valid) >= 3, "v2c, v3's discovery and v3 itself"
    chance = random.Random(20)
    before = int(snmp.get(PARSE_ERRORS))
    attack(snmp, chance, valid, WARM)  # code paths, caches and buffers that stay
    memory = resident(faces)
    answered = attack(snmp, chance, valid, MANY)
    assert resident(faces) - memory < GROWTH
    # Harmless mutations were answered (by v2c with the community), harmful ones by Reports.
    assert answered["value"] > 10
    assert answered["report"] > 100
    assert answered.total() < MANY // 2, "most get silence"
    eventually(lambda: int(snmp.get(PARSE_ERRORS)) > before + MANY // 10)
    assert snmp.device.running()["faces_pid"] == faces
    assert len(snmp.device.process.said()) - said < 2000, "and no log is filled"
    assert snmp.get(SYS_DESCR).startswith("callpool")


def attack(snmp: Snmp, chance: random.Random, valid: list[bytes], number: int) -> Counter[str]:
    """Send mutated packets, each from a port of its own; judge and count what comes back."""
    answered = Counter[str]()
    agent = ("127.0.0.1", snmp.port)
    probe = valid[0]
    assert COMMUNITY.encode() in probe
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as barrier:
        barrier.settimeout(60)
        for start in range(0, number, 50):
            out: list[tuple[bytes, socket.socket]] = []
            try:
                for _ in range(min(50, number - start)):
                    packet = mutated(chance, chance.choice(valid))
                    while packet in valid:
                        packet = mutated(chance, packet)
                    attacker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    attacker.setblocking(False)
                    out.append((packet, attacker))
                    attacker.sendto(packet, agent)
                # Packets are taken in order: this answer comes after all of theirs.
                barrier.sendto(probe, agent)
                assert b"callpool" in barrier.recv(65535)
                for packet, attacker in out:
                    with contextlib.suppress(BlockingIOError):
                        answered[judge(packet, attacker.recv(65535))] += 1
            finally:
                for _, attacker in out:
                    attacker.close()
    return answered


def judge(packet: bytes, answer: bytes) -> str:
    """A v2c answer needs the community; by v3 nothing but a Report of a counter comes."""
    [(_, message)] = elements(answer)
    (_, version), *_ = elements(message)
    if version == b"\x01":
        assert COMMUNITY.encode() in packet, packet.hex()
        return "value"
    oid, _ = report(answer)
    assert oid.startswith((USM, *MPD)), oid
    return "report"


def resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    [line] = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in x]
    return int(line.split()[1]) / 1024


def mutated(chance: random.Random, packet: bytes) -> bytes:
    """A packet with a few octets changed, lost or added, or its end cut off."""
    made = bytearray(packet)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at, how = chance.randrange(len(made)), chance.randrange(4)
        if how == 0:
            made[at] = chance.randrange(256)
        elif how == 1 and len(made) > 1:
            del made[at]
        elif how == 2:
            made.insert(at, chance.randrange(256))
        else:
            made = made[: max(1, at)]
    return bytes(made)
