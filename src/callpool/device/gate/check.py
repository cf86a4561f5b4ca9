"""`callpool gate check FILE`: what a user must merge into a Kamailio configuration of his own.

It reads the file as text, routes by their braces: enough to name what is missing in the words
of the file, and no more. Whether Kamailio takes the whole is for `kamailio -c` to say, run on
the file with the gate's own parameters.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from callpool.device.gate.launch import check_program
from callpool.device.gate.render import write_config
from callpool.device.gate.seed import Seed, write_seed
from callpool.device.gate.settings import GateError, GateSettings

#: Modules that the include loads unless CALLPOOL_HAVE_<NAME> is defined.
_MODULES: Final = (
    "tm", "sl", "rr", "pv", "corex", "textops", "siputils", "xlog", "db_sqlite",
    "htable", "rtimer", "jsonrpcs", "mqueue", "usrloc", "registrar",
)  # fmt: skip
#: Of these, only where far-end users are licensed.
_USER_MODULES: Final = ("mqueue", "usrloc", "registrar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to merge or to know."""

    #: A stable word for the kind of finding.
    code: str
    #: What to do, in one sentence.
    sentence: str
    #: The line of the file, from 1; 0 for the file as a whole.
    line: int = 0
    #: Whether the gate works without it.
    warning: bool = False

    def __str__(self) -> str:
        """Return the finding as it is printed."""
        where = f"line {self.line}: " if self.line else ""
        return f"{'warning' if self.warning else 'error'}: {where}{self.sentence} [{self.code}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings about one file."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Tell whether nothing but warnings was found."""
        return all(f.warning for f in self.findings)

    def __str__(self) -> str:
        """Return one line per finding, and a last one that says the result."""
        last = "The gate is merged." if self.ok else "The gate is not merged yet: see docs/gate.md."
        return "\n".join([*(str(f) for f in self.findings), last])


@dataclass(frozen=True, slots=True)
class _Route:
    """One route block: kind (`request_route`, `route`, `failure_route`...), name and text."""

    kind: str
    name: str
    line: int
    text: str


def check(path: Path, *, kamailio: str = "kamailio") -> Report:
    """Say what is missing in the configuration `path`, and try it with `kamailio -c`.

    Raises GateError `config_unreadable`.
    """
    try:
        source = path.read_text(errors="replace")
    except OSError as exc:
        raise GateError("config_unreadable", f"{path} cannot be read: {exc.strerror}.") from exc
    text = _without_comments(source)
    routes = tuple(_routes(text))
    findings = [*_structure(text, routes), *_calls(routes)]
    try:
        program = check_program(kamailio)
    except GateError as exc:
        findings.append(Finding(code=exc.code, sentence=exc.sentence))
    else:
        if not any(f.code == "include_missing" for f in findings):
            findings += _try(program, path, source)
    return Report(findings=tuple(findings))


def _without_comments(source: str) -> str:
    """Blank comments out, and what stands in strings stays; lines keep their numbers."""
    pattern = re.compile(r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|#(?!!)[^\n]*|//[^\n]*', re.S)
    return pattern.sub(
        lambda m: m[0] if m[0].startswith('"') else re.sub(r"[^\n]", " ", m[0]), source
    )


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _routes(text: str) -> Iterator[_Route]:
    head = re.compile(
        r"\b((?:request|reply|failure|onreply|branch|onsend|event)_route|route)"
        r"\s*(?:\[\s*\"?([\w:.-]+)\"?\s*\])?\s*\{"
    )
    for match in head.finditer(text):
        depth, end = 1, match.end()
        for brace in re.finditer(r'"(?:\\.|[^"\\\n])*"|[{}]', text[match.end() :]):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                end = match.end() + brace.start()
                break
        kind = "request_route" if match[1] == "route" and not match[2] else match[1]
        yield _Route(kind, match[2] or "", _line(text, match.start()), text[match.end() : end])


def _structure(text: str, routes: tuple[_Route, ...]) -> Iterator[Finding]:
    include = re.search(r'(?:include|import)_file\s+"[^"]*callpool\.cfg"', text)
    if include is None:
        yield Finding(
            code="include_missing",
            sentence='Add include_file "<gate directory>/callpool.cfg" after the loadmodule lines.',
        )
        return
    first_route = min((r.line for r in routes), default=1 << 30)
    if _line(text, include.start()) > first_route:
        yield Finding(
            code="include_late",
            line=_line(text, include.start()),
            sentence="Move the include before the first route.",
        )
    has_users = any("CALLPOOL_REGISTER" in r.text for r in routes)
    for module in _MODULES:
        load = re.search(rf'loadmodule(?:x)?\s+"(?:[^"]*/)?{module}(?:\.so)?"', text)
        have = re.search(rf"#!define\s+CALLPOOL_HAVE_{module.upper()}\b", text)
        if load is None or (module in _USER_MODULES and not has_users):
            continue
        if load.start() > include.start():
            yield Finding(
                code="module_twice",
                line=_line(text, load.start()),
                sentence=f"The include loads {module} already: remove this loadmodule.",
            )
        elif have is None or have.start() > include.start():
            yield Finding(
                code="module_twice",
                line=_line(text, load.start()),
                sentence=f"{module} is loaded here and by the include, which stops Kamailio:"
                f" add #!define CALLPOOL_HAVE_{module.upper()} before the include.",
            )
    yield from _parameters(text)
    for route in routes:
        if route.kind == "event_route" and route.name == "usrloc:contact-expired" and has_users:
            if "CALLPOOL_EXPIRED" not in route.text:
                yield Finding(
                    code="expired_route",
                    line=route.line,
                    sentence="Call route(CALLPOOL_EXPIRED) here and add"
                    " #!define CALLPOOL_HAVE_EXPIRED_ROUTE before the include: two such routes"
                    " stop Kamailio.",
                )
        elif route.name.startswith(("CALLPOOL_", "CP_")):
            yield Finding(
                code="route_name",
                line=route.line,
                sentence=f"Rename route {route.name}: names with CALLPOOL_ and CP_ are the gate's.",
            )


def _parameters(text: str) -> Iterator[Finding]:
    rules = (
        ("htable", "db_url", lambda v: "seed.db" in v,
         "htable's db_url must be the gate's seed (the include sets it): one Kamailio has one."),
        ("usrloc", "use_domain", lambda v: v == "1",
         'Set modparam("usrloc", "use_domain", 1), or define CALLPOOL_NO_DOMAIN.'),
        ("usrloc", "db_mode", lambda v: v in ("0", "4"),
         "usrloc's db_mode 1 to 3 writes from the SIP processes: use 4 with the gate's seed."),
        ("jsonrpcs", "dgram_socket", lambda v: v.endswith("rpc.sock"),
         "jsonrpcs needs the gate's dgram_socket: <gate directory>/rpc.sock."),
    )  # fmt: skip
    for module, name, good, sentence in rules:
        found = re.search(rf'modparam\(\s*"{module}"\s*,\s*"{name}"\s*,\s*"?([^")]*)"?\s*\)', text)
        if found is None or good(found[1].strip()):
            continue
        if name == "use_domain" and "CALLPOOL_NO_DOMAIN" in text:
            continue
        yield Finding(
            code="parameter", line=_line(text, found.start()), sentence=sentence,
            warning=name == "db_mode",
        )  # fmt: skip
    loops = re.search(r"^\s*max_while_loops\s*=\s*([0-9]+)", text, re.M)
    if loops is not None and 0 < int(loops[1]) < 100_000:
        yield Finding(
            code="parameter",
            line=_line(text, loops.start()),
            sentence="Remove max_while_loops: the include's sweeps walk whole tables.",
        )


def _calls(routes: tuple[_Route, ...]) -> Iterator[Finding]:
    body = "\n".join(r.text for r in routes)
    needed = {
        "CALLPOOL_ADMIT": "Call route(CALLPOOL_ADMIT) for each first INVITE, before"
        " record_route() and t_relay().",
        "CALLPOOL_IN_DIALOG": "Call route(CALLPOOL_IN_DIALOG) for requests with a To-tag,"
        " before loose_route().",
        "CALLPOOL_END": "Call route(CALLPOOL_END) where t_relay() of an INVITE fails and where a"
        " failure_route gives up.",
    }
    for name, sentence in needed.items():
        if f"route({name})" not in body.replace(" ", ""):
            yield Finding(code="route_not_called", sentence=sentence)
    if "CALLPOOL_OPTIONS" not in body:
        yield Finding(
            code="route_not_called", warning=True,
            sentence="Answer OPTIONS with route(CALLPOOL_OPTIONS), so that peers fail over when"
            " no call is admitted.",
        )  # fmt: skip
    if re.search(r"\bsave\s*\(", body) and "CALLPOOL_REGISTER" not in body:
        yield Finding(
            code="route_not_called", warning=True,
            sentence="Far-end users are not judged: call route(CALLPOOL_REGISTER) instead of"
            " save().",
        )  # fmt: skip
    if "record_route" not in body:
        yield Finding(
            code="record_route_missing",
            sentence="Call record_route() after CALLPOOL_ADMIT: without it no BYE comes by.",
        )
    yield from _order(routes)
    yield from _failures(routes, body)


def _order(routes: tuple[_Route, ...]) -> Iterator[Finding]:
    for route in routes:
        admit = route.text.find("CALLPOOL_ADMIT")
        if admit < 0:
            continue
        before = route.text[:admit]
        # What stands in a block of its own above (CANCEL, in dialog) is another request's.
        flat = re.sub(r"\{[^{}]*\}", "", re.sub(r"\{[^{}]*\{[^{}]*\}[^{}]*\}", "", before))
        flat = re.sub(r"if\s*\(is_method\(\"CANCEL\"\)[^;]*;", "", flat)
        relay = re.search(r"\bt_relay\s*\(", flat)
        if relay is not None:
            yield Finding(
                code="relay_before_admit", line=route.line,
                sentence=f"t_relay() stands before CALLPOOL_ADMIT in {route.name or route.kind}:"
                " an INVITE must be judged first.",
            )  # fmt: skip
        if re.search(r"\brecord_route\s*\(", flat):
            yield Finding(
                code="record_route_early", line=route.line,
                sentence="record_route() must come after CALLPOOL_ADMIT, which adds its"
                " parameter.",
            )  # fmt: skip
    for route in routes:
        loose, ours = route.text.find("loose_route"), route.text.find("CALLPOOL_IN_DIALOG")
        if 0 <= loose < ours:
            yield Finding(
                code="loose_route_early", line=route.line,
                sentence="loose_route() must come after CALLPOOL_IN_DIALOG, which reads the Route.",
            )  # fmt: skip


def _failures(routes: tuple[_Route, ...], body: str) -> Iterator[Finding]:
    armed = set(re.findall(r"t_on_failure\(\s*\"(\w+)\"", body))
    for route in routes:
        if "CALLPOOL_END" in route.text:
            continue
        if route.kind == "failure_route" and route.name in armed:
            yield Finding(
                    code="failure_without_end", line=route.line,
                    sentence=f"failure_route[{route.name}] takes the gate's place: call"
                    " route(CALLPOOL_END) where it gives the call up.",
                )  # fmt: skip
        if route.kind == "onreply_route" and re.search(
            rf"BYE[^}}]*t_on_reply\(\s*\"{route.name}\"", body
        ):
            yield Finding(
                    code="reply_without_end", line=route.line,
                    sentence=f"onreply_route[{route.name}] takes the gate's place for a BYE: call"
                    " route(CALLPOOL_END) there on a final answer.",
                )  # fmt: skip


def _try(program: str, path: Path, source: str) -> Iterator[Finding]:
    """Run `kamailio -c` on the file, with parameters made for the trial."""
    place = Path(tempfile.mkdtemp(prefix="cpcheck"))
    try:
        settings = GateSettings(
            directory=str(place),
            listen=("udp:127.0.0.1:5060",),
            mac_secret="0" * 32,
            users={"check": "0" * 32} if "CALLPOOL_REGISTER" in source else {},
            mode="external",
            restart_command=("true",),
        )
        write_config(settings, core_port=9, token="check")  # noqa: S106 (a trial's)
        write_seed(place / "seed.db", Seed(policy=""))
        merged = place / "merged.cfg"
        merged.write_text(
            re.sub(
                r'((?:include|import)_file\s+")[^"]*callpool\.cfg"',
                rf'\g<1>{place / "callpool.cfg"}"',
                source,
            )
        )
        done = subprocess.run(
            [program, "-c", "-E", "-f", str(merged), "-Y", str(place)],
            capture_output=True, text=True, timeout=60, cwd=path.resolve().parent,
        )  # fmt: skip
        if done.returncode != 0:
            words = [
                line.replace(str(merged), path.name).strip()
                for line in (done.stderr + done.stdout).splitlines()
                if re.search(r"CRITICAL|ERROR|error", line)
            ]
            yield Finding(
                code="kamailio_refuses",
                sentence=f"kamailio -c refuses it: {words[0][:300] if words else 'without a word'}",
            )
    finally:
        shutil.rmtree(place, ignore_errors=True)
