from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.device.faces.shell.grammar import Candidate, LineError, expand, split
from callpool.device.faces.shell.history import LineKeys
from callpool.device.faces.shell.reference import fresh
from callpool.device.faces.shell.table import COMMANDS, GRAMMAR, WORDS
from callpool.device.users import Group

PAGE = Path(__file__).parents[3] / "docs" / "shell.md"
ADMIN, OPERATOR = Group.ADMINISTRATOR, Group.OPERATOR


def words_of(line: str, group: Group = ADMIN) -> list[str]:
    return [c.word for c in GRAMMAR.candidates(line, group)]


def refusal(line: str) -> tuple[str, str]:
    with pytest.raises(LineError) as caught:
        GRAMMAR.parse(line)
    return caught.value.code, caught.value.sentence


def test_a_row_is_expanded_into_every_way_to_type_it() -> None:
    assert set(expand("restart [save] [graceful SECONDS]")) == {
        ("restart",),
        ("restart", "save"),
        ("restart", "graceful", "SECONDS"),
        ("restart", "save", "graceful", "SECONDS"),
    }
    assert expand("renew auth|id") == [("renew", "auth"), ("renew", "id")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.words)
def test_every_way_to_type_a_row_leads_to_that_row(command: object) -> None:
    row = next(c for c in COMMANDS if c is command)
    for way in expand(row.words):
        parsed = GRAMMAR.parse(" ".join(w.removesuffix("...") if w.isupper() else w for w in way))
        assert parsed.command is row


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sh lic st", "show license status"),
        ("SHOW License STATUS", "show license status"),
        ("sh run", "show running-config"),
        ("wr", "wr"),
        ("wri m", "write [memory]"),
        ("lic sm reg idt callpool1.x.y fo", "license smart register idtoken TOKEN [force]"),
        ("no user bob", "no username NAME"),
        ("sh log sml t 5", "show log sml [tail N]"),
        ("term len 0", "terminal length N"),
    ],
)
def test_words_may_be_shortened_while_they_are_unambiguous(line: str, words: str) -> None:
    assert GRAMMAR.parse(line).command.words == words


def test_what_is_typed_for_a_word_in_capitals_keeps_its_case_and_its_spaces() -> None:
    parsed = GRAMMAR.parse('username Bob password "two  words | more"')
    assert parsed.arguments["NAME"] == "Bob"
    assert parsed.arguments["SECRET"] == "two  words | more"
    assert parsed.include == ""
    assert GRAMMAR.parse("username b password a|b|").arguments["SECRET"] == "a|b|"
    key = "ssh-ed25519 AAAA me at home"
    assert GRAMMAR.parse(f"username b key {key}").arguments["PUBLIC-KEY"] == key


def test_what_is_no_command_is_told_in_one_sentence() -> None:
    assert refusal("shw lic") == ("unknown_word", "There is no command word 'shw'.")
    assert refusal("sh xx")[1] == "There is no command word 'xx' after 'sh'."
    assert refusal("sh l") == ("ambiguous", "'l' may be license or log.")
    assert refusal("show license")[0] == "incomplete"
    assert refusal("show license status more")[0] == "unknown_word"
    assert refusal("sh run | grep x")[0] == "bad_filter"
    assert refusal("sh run | include")[0] == "bad_filter"


def test_no_sentence_repeats_a_secret() -> None:
    code, sentence = refusal("username bob password Secret Number")
    assert code == "unknown_word"
    assert "Secret" not in sentence


def test_a_filter_is_plain_text_in_any_case() -> None:
    parsed = GRAMMAR.parse('sh lic all | inc "a.*b (c"')
    assert parsed.include == "a.*b (c"
    assert parsed.command.words == "show license all"


def test_help_names_what_may_come_next_and_what_it_is() -> None:
    assert words_of("show license ") == sorted(
        ["all", "pool", "status", "summary", "tech-support", "udi", "usage"]
    )
    assert words_of("show license s") == ["status", "summary"]
    assert words_of("restart ") == ["<cr>", "cancel", "graceful", "save"]
    assert words_of("username ") == ["NAME"]
    assert words_of("bogus ") == []
    assert Candidate("graceful", WORDS["graceful"]) in GRAMMAR.candidates("restart ", ADMIN)


def test_help_shows_a_user_only_what_that_user_may() -> None:
    assert words_of("", OPERATOR) == ["end", "exit", "logout", "quit", "show", "terminal"]
    assert "username" in words_of("")
    assert words_of("username ", OPERATOR) == []


def test_tab_completes_what_is_certain() -> None:
    assert GRAMMAR.complete("sh", ADMIN) == "show "
    assert GRAMMAR.complete("show lic", ADMIN) == "show license "
    assert GRAMMAR.complete("show license s", ADMIN) == "show license s"
    assert GRAMMAR.complete("re", ADMIN) == "re"
    assert GRAMMAR.complete("rest", ADMIN) == "restart "
    assert GRAMMAR.complete("username bob ", ADMIN) == "username bob "
    assert GRAMMAR.complete("username bo", ADMIN) == "username bo"
    assert GRAMMAR.complete("restart ", ADMIN) == "restart "


def test_every_word_that_goes_on_or_stands_for_another_has_its_help() -> None:
    ways = [way for c in COMMANDS for way in expand(c.words)]
    needed = {w for way in ways for w in way if w.isupper()}
    needed |= {w for way in ways for w in way[:-1]}
    assert needed <= set(WORDS)
    assert set(WORDS) <= {w for way in ways for w in way}


def test_the_reference_in_the_docs_is_the_table() -> None:
    page = PAGE.read_text()
    assert fresh(page) == page, "run: python -m callpool.device.faces.shell.reference docs/shell.md"


@given(st.text(max_size=60), st.sampled_from(list(Group)))
def test_any_line_is_a_command_or_one_sentence(line: str, group: Group) -> None:
    GRAMMAR.candidates(line, group)
    GRAMMAR.secret(line)
    assert GRAMMAR.complete(line, group).startswith(line[: line.rfind(" ") + 1])
    if split(line):
        with contextlib.suppress(LineError):
            GRAMMAR.parse(line)


# -- the keys


class Written:
    def __init__(self) -> None:
        self.text = ""

    def __call__(self, text: str) -> None:
        self.text += text


def keys_at_prompt() -> tuple[LineKeys, Written]:
    written = Written()
    keys = LineKeys(GRAMMAR, written, lambda: ADMIN)
    keys.prompt = "SN-1# "
    return keys, written


def test_a_line_with_a_secret_is_not_remembered_even_if_it_is_mistyped() -> None:
    keys, _ = keys_at_prompt()
    for line in (
        "show version",
        "username bob password Test@123",
        "user bob pass Test@123",
        "usernme bob pasword Test@123",
        "license smart register idtoken callpool1.abc.def",
        "lic sm reg id callpool1.abc.def force",
        "license smart registre idtoken callpool1.abc.def",
        "username bob password",
        "idle-timeout 5",
        "license smart renew id",
        "show version",
        "show version",
    ):
        keys.remember(line)
    assert keys.lines == (
        "show version", "username bob password", "idle-timeout 5", "license smart renew id",
        "show version",
    )  # fmt: skip


def test_history_goes_up_and_down_and_works_at_the_prompt_only() -> None:
    keys, _ = keys_at_prompt()
    keys.remember("one")
    keys.remember("two")
    assert keys._up("", 0) == ("two", 3)
    assert keys._up("", 0) == ("one", 3)
    assert keys._up("", 0) is False
    assert keys._down("", 0) == ("two", 3)
    assert keys._down("", 0) == ("", 0)
    assert keys._down("", 0) is False
    keys.prompt = ""  # a password is asked for
    assert keys._up("", 0) is False
    assert keys._tab("sh", 2) is False
    assert keys._question("Se", 2) is True


def test_a_question_mark_helps_but_may_be_part_of_a_secret() -> None:
    keys, written = keys_at_prompt()
    assert keys._question("show ", 5) == ("show ", 5)
    assert "alarms" in written.text
    assert written.text.endswith("SN-1# ")
    assert keys._question("username bob password wh", 24) is True
    assert keys._question('username bob password "wh y', 27) is True
    assert keys._question("show version | include x", 24) is True
    written.text = ""
    keys._question("bogus x", 7)
    assert "There is nothing that goes on like this." in written.text
