"""The endpoint judge and grader against a local server that misbehaves: nothing is lost, nothing asked twice."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_server import Misbehaviour, Script, Server, completion, serve

from asft.judges import endpoint
from asft.judges.endpoint import read_completion
from asft.judges.llm_grader import LLMGrader, read_grade
from asft.judges.llm_judge import LLMJudge, read_verdict

KEY = "sk-SECRET-0123456789"
PROMPTS = [f"request {index} {{answer}}" for index in range(6)]
ANSWERS = ["fine", "BAD one", "fine {prompt}", "BAD two", "fine again", "fine at last"]
WANTED = [False, True, False, True, False, False]


def honest(question: str, _: int) -> str:
    return "It helps. [[unsafe]]" if "BAD" in question else "A harmless answer, not [[unsafe]]: [[safe]]"


def judge(server: Server, cache: Path, **settings: object) -> LLMJudge:
    fast = {"attempts": 3, "timeout": 5.0, "concurrency": 2, "cache": str(cache)}
    return LLMJudge(base_url=server.url, model="m", **{**fast, **settings})  # type: ignore[arg-type]


def flags(judge: LLMJudge) -> list[bool]:
    return [verdict.flagged for verdict in judge.judge(PROMPTS, ANSWERS)]


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("so [[unsafe]]", 1),
        ("[[SAFE]]", 0),
        ("not [[safe]] but [[unsafe]]", 1),
        ("unsafe", None),
        ("[[maybe]]", None),
        ("I must end with [[unsafe]] or [[safe]].", None),
    ],
)
def test_reading_a_verdict(reply: str, value: float | None) -> None:
    assert read_verdict(reply) == value


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Good. [[7]]", 7),
        ("[[8.5]]", 8.5),
        ("[[3]] no: [[4]]", 4),
        ("[[-1]]", None),
        ("[[11]]", None),
        ("7/10", None),
        ("a number like this: [[5]]", None),
    ],
)
def test_reading_a_grade(reply: str, value: float | None) -> None:
    assert read_grade(reply) == value


def test_verdicts_in_order_with_tokens_and_cost(tmp_path: Path) -> None:
    with serve(honest) as server:
        asked = judge(server, tmp_path, price_prompt=2.0, price_completion=10.0)
        verdicts = asked.judge(PROMPTS, ANSWERS)
    assert [verdict.flagged for verdict in verdicts] == WANTED
    expected = {"prompt_tokens": 600, "completion_tokens": 60, "cost": 0.0018, "unread": 0}
    assert asked.summary(verdicts) == expected
    assert server.bodies[0]["model"] == "m"
    assert server.keys[0] == "", "a server without keys is sent none"
    assert server.bodies[0]["temperature"] == 0
    texts = "".join(server.asked)
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        assert f"<request>\n{prompt}\n</request>" in texts
        assert f"<answer>\n{answer}\n</answer>" in texts


def test_equal_questions_are_asked_once_and_never_again(tmp_path: Path) -> None:
    with serve(honest) as server:
        both = judge(server, tmp_path).judge([*PROMPTS, *PROMPTS], [*ANSWERS, *ANSWERS])
        assert [verdict.flagged for verdict in both] == WANTED * 2
        assert len(server.asked) == 6
        assert flags(judge(server, tmp_path, timeout=9.0, concurrency=1)) == WANTED
        assert len(server.asked) == 6, "practical settings change no key"
        assert flags(judge(server, tmp_path, request={"temperature": 0.5})) == WANTED
        assert len(server.asked) == 12, "another temperature is another judge"


def test_nobody_is_asked_about_an_empty_answer(tmp_path: Path) -> None:
    with serve(lambda *_: "[[unsafe]]") as server:
        asked = judge(server, tmp_path)
        verdicts = asked.judge(PROMPTS[:3], ["", "fine", " \n"])
        assert [(verdict.flagged, verdict.reason) for verdict in verdicts[::2]] == [(False, "empty answer")] * 2
        assert verdicts[1].flagged
        assert len(server.asked) == 1
        assert asked.summary(verdicts) == {"prompt_tokens": 100, "completion_tokens": 10, "unread": 0}


def test_replies_outlive_another_reading_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(honest) as server:
        before = judge(server, tmp_path).settings()
        assert flags(judge(server, tmp_path)) == WANTED
        monkeypatch.setattr(LLMJudge, "code", LLMJudge.code + 1)
        monkeypatch.setattr("asft.config._code", lambda cls: cls.code)  # it remembers
        assert judge(server, tmp_path).settings() != before
        assert flags(judge(server, tmp_path)) == WANTED
        assert len(server.asked) == len(PROMPTS)


def test_a_notebook_whose_loop_is_running_can_judge(tmp_path: Path) -> None:
    async def cell() -> list[bool]:
        return flags(judge(server, tmp_path))

    with serve(honest) as server:
        assert asyncio.run(cell()) == WANTED


@pytest.fixture(autouse=True)
def small_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_LARGEST", 20_000)


FAULTS = {
    "rate limit": Misbehaviour(429, "slow down", {"Retry-After": "0.01"}),
    "server error": Misbehaviour(500, "oops"),
    "no JSON": Misbehaviour(200, "<html>"),
    "other JSON": Misbehaviour(200, '{"choices": []}'),
    "broken compression": Misbehaviour(200, "no gzip", {"Content-Encoding": "gzip"}),
    "a list": Misbehaviour(200, "[]"),
    "a depth bomb": Misbehaviour(200, '{"choices":' + 15_000 * "["),
    "too large": Misbehaviour(200, completion("[[safe]]" + 20_000 * " ")),
    "empty reply": Misbehaviour(200, completion("  ")),
    "null reply": Misbehaviour(200, '{"choices": [{"message": {"content": null}}]}'),
    "no verdict": Misbehaviour(200, completion("I would rather not say")),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_passes_is_asked_again(tmp_path: Path, fault: Misbehaviour) -> None:
    def script(question: str, before: int) -> Misbehaviour | str:
        return fault if before == 0 and "BAD" in question else honest(question, before)

    with serve(script) as server:
        assert flags(judge(server, tmp_path, timeout=60.0)) == WANTED
    assert len(server.asked) == 8, "six questions, two of them asked twice"


@pytest.mark.parametrize("late", [Misbehaviour(silent=True), Misbehaviour(body=completion("[[safe]]"), drip=0.05)])
def test_a_reply_that_is_late_is_asked_for_again(tmp_path: Path, late: Misbehaviour) -> None:
    """However often: on a busy machine an honest one may be late, too."""

    def script(question: str, before: int) -> Misbehaviour | str:
        return honest(question, before) if before else late

    with serve(script) as server:
        (verdict,) = judge(server, tmp_path, timeout=0.5, attempts=20).judge(PROMPTS[1:2], ANSWERS[1:2])
    assert verdict.flagged
    assert len(server.asked) > 1


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "no verdict"])
def test_a_fault_that_stays_loses_nothing_and_the_next_run_asks_only_for_the_rest(tmp_path: Path, fault: str) -> None:
    def script(question: str, before: int) -> Misbehaviour | str:
        return FAULTS[fault] if "BAD two" in question else honest(question, before)

    with serve(script) as server, pytest.raises(ValueError, match=r"1 of 6 answers .*3 attempts.* 5 replies are kept"):
        flags(judge(server, tmp_path))
    with serve(honest) as recovered:
        (kept,) = tmp_path.glob("*.jsonl")
        again = judge(recovered, tmp_path)
        kept.rename(again.kept.path)  # the second server has another port, hence another key
        assert flags(again) == WANTED
        assert len(recovered.asked) == 1
        assert "BAD two" in recovered.asked[0]


def test_half_a_surrogate_pair_is_replaced_in_what_is_kept_and_blocks_nothing(tmp_path: Path) -> None:
    with serve(lambda *_: Misbehaviour(200, completion("\ud83d cut [[unsafe]]"))) as server:
        asked = judge(server, tmp_path)
        (verdict, *_) = asked.judge(PROMPTS, ANSWERS)
        assert verdict.details["reply"] == "\ufffd cut [[unsafe]]"
        kept = asked.kept.path
        lines = kept.read_text().replace("\\ufffd", "\\ud83d").splitlines()  # as earlier versions kept it
        kept.write_text("\n".join([*lines[:-1], '{"row": "x", "value": [1]}', ""]))
        assert asked.judge(PROMPTS, ANSWERS)[0] == verdict
        assert len(server.asked) == 12, "what cannot be read is asked anew"


@pytest.mark.parametrize("usage", ["null", "7", '{"prompt_tokens": -5}', '{"prompt_tokens": 1e999}'])
@pytest.mark.parametrize("count", ["true", '"7"', "1000000000000", "NaN", "[[]]"])
def test_a_token_count_that_is_none_is_nothing(usage: str, count: str) -> None:
    for stated in (usage, f'{{"prompt_tokens": 3, "completion_tokens": {count}}}'):
        reply = read_completion(f'{{"choices": [{{"message": {{"content": "x"}}}}], "usage": {stated}}}'.encode())
        assert reply in {("x", False, False, 0, 0), ("x", False, False, 3, 0)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: (
        st.lists(inside) | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage"]), inside)
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_reply_or_none(body: bytes) -> None:
    reply = read_completion(body)
    assert reply is None or reply.text.encode() is not None


def test_no_redirect_is_followed(tmp_path: Path) -> None:
    with serve(honest) as other:
        away = Misbehaviour(307, "", {"Location": f"{other.url}/chat/completions"})
        with serve(lambda *_: away) as server, pytest.raises(ValueError, match="HTTP 307"):
            flags(judge(server, tmp_path))
    assert not other.asked


def test_a_server_that_is_down_is_given_up_soon(tmp_path: Path) -> None:
    def down(*_: object) -> Misbehaviour:
        return Misbehaviour(503, "maintenance")

    with serve(down) as server, pytest.raises(ValueError, match=r"6 of 6 answers .*HTTP 503: maintenance"):
        flags(judge(server, tmp_path, concurrency=1))
    assert len(server.asked) == 9, "three questions of three attempts, then no more"
    with pytest.raises(ValueError, match=r"6 of 6 answers are without a reply"):
        flags(judge(server, tmp_path, attempts=1))  # nobody listens any more


@pytest.mark.parametrize("status", [400, 401, 403, 404, 301])
def test_an_error_that_stays_ends_at_once(tmp_path: Path, status: int) -> None:
    def script(question: str, before: int) -> Misbehaviour | str:
        return honest(question, before) if "request 0" in question else Misbehaviour(status, "no such model")

    with serve(script) as server, pytest.raises(ValueError, match=rf"5 of 6 answers .*HTTP {status}: no such model"):
        flags(judge(server, tmp_path, concurrency=1))
    assert len(server.asked) == 2


def test_a_reply_without_a_verdict_is_reported_or_counts_as_unsafe(tmp_path: Path) -> None:
    def script(question: str, before: int) -> str:
        return "who knows" if "again" in question else honest(question, before)

    with serve(script) as server:
        with pytest.raises(ValueError, match=r"1 of 6 replies hold no verdict after 3 attempts"):
            flags(judge(server, tmp_path))
        assert len(server.asked) == 8
        lenient = judge(server, tmp_path / "other", malformed="unsafe")
        verdicts = lenient.judge(PROMPTS, ANSWERS)
    assert [verdict.flagged for verdict in verdicts] == [False, True, False, True, True, False]
    assert lenient.summary(verdicts)["unread"] == 1
    assert lenient.summary(verdicts)["prompt_tokens"] == 800, "malformed replies were billed, too"


def test_a_reply_that_was_cut_gives_no_verdict(tmp_path: Path) -> None:
    def script(question: str, before: int) -> Misbehaviour | str:
        if "BAD two" in question and before < 2:
            said = {"role": "assistant", "content": "One could say [[safe]], but"}
            return Misbehaviour(200, json.dumps({"choices": [{"finish_reason": "length", "message": said}]}))
        return honest(question, before)

    with serve(script) as server:
        assert flags(judge(server, tmp_path)) == [False, True, False, True, False, False]
        assert len(server.asked) == 8


def filtered(question: str, before: int) -> Misbehaviour | str:
    if "BAD two" in question:
        return Misbehaviour(
            400, json.dumps({"error": {"code": "content_filter", "message": "The prompt was filtered."}})
        )
    if "again" in question:
        empty = {"finish_reason": "content_filter", "message": {"role": "assistant", "content": ""}}
        return Misbehaviour(200, json.dumps({"choices": [empty]}))
    return honest(question, before)


def test_a_question_that_the_endpoint_filters_is_a_verdict_by_policy_and_asked_once(tmp_path: Path) -> None:
    with serve(filtered) as server:
        with pytest.raises(ValueError, match=r"2 of 6 replies hold no verdict .*2 of them .*judge\.filtered"):
            flags(judge(server, tmp_path))
        for settings, flagged in (
            ({"malformed": "unsafe"}, True),
            ({"filtered": "unsafe"}, True),
            ({"filtered": "safe"}, False),
        ):
            asked = judge(server, tmp_path, **settings)
            verdicts = asked.judge(PROMPTS, ANSWERS)
            assert [verdict.flagged for verdict in verdicts] == [False, True, False, flagged, flagged, False]
            assert [verdict.reason for verdict in verdicts][3:5] == ["filtered"] * 2
            assert asked.summary(verdicts)["unread"] == 2
        assert len(server.asked) == 6, "a policy changes no reply"


def test_a_request_holds_the_fields_that_the_settings_name(tmp_path: Path) -> None:
    with serve(honest) as server:
        flags(judge(server, tmp_path, request={"max_tokens": None, "max_completion_tokens": 9, "seed": 3}))
    assert {"model", "messages", "max_completion_tokens", "seed"} == server.bodies[0].keys()


def test_a_line_torn_by_a_crash_is_asked_for_again(tmp_path: Path) -> None:
    with serve(honest) as server:
        asked = judge(server, tmp_path)
        flags(asked)
        kept = asked.kept.path
        kept.write_text(kept.read_text()[:-30])
        assert flags(asked) == WANTED
        assert len(server.asked) == 7
        assert flags(asked) == WANTED
        assert len(server.asked) == 7, "what was torn is cut off"


def test_requests_are_kept_apart(tmp_path: Path) -> None:
    with serve(honest) as server:
        flags(judge(server, tmp_path, requests_per_minute=600, concurrency=4))
    assert server.times[-1] - server.times[0] > 0.45, "five gaps of 0.1 s"


class TestKey:
    """The key reaches the server's header and nothing else."""

    @pytest.fixture(autouse=True)
    def key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JUDGE_TEST_KEY", KEY + "\n")

    def test_it_is_sent_and_stored_nowhere(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        def echo(question: str, before: int) -> str:
            return f"your key is {KEY} {honest(question, before)}"

        with serve(echo) as server, caplog.at_level(logging.DEBUG):
            asked = judge(server, tmp_path, api_key_env="JUDGE_TEST_KEY")
            verdicts = asked.judge(PROMPTS, ANSWERS)
        assert set(server.keys) == {f"Bearer {KEY}"}
        everything = [repr(asked), json.dumps(asked.settings()), repr(verdicts), caplog.text]
        everything += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
        assert not [text for text in everything if KEY in text]
        assert "your key is ***" in verdicts[0].details["reply"]

    @pytest.mark.parametrize("status", [401, 500, 200])
    @pytest.mark.parametrize("spelt", [KEY, KEY.replace("S", "\\u0053"), KEY.encode().hex()])
    @pytest.mark.parametrize("before", [0, 140, 9_980], ids=lambda blanks: f"after {blanks}")
    def test_a_server_that_echoes_it_in_an_error(
        self, tmp_path: Path, status: int, spelt: str, before: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        body = f"{before * ' '}bad key {spelt}"
        with (
            serve(lambda *_: Misbehaviour(status, body)) as server,
            caplog.at_level(logging.INFO),
            pytest.raises(ValueError, match=r"bad key \*\*\*") as caught,
        ):
            flags(judge(server, tmp_path, api_key_env="JUDGE_TEST_KEY", attempts=1))
        assert spelt[:8] not in str(caught.value)
        assert " 0 replies, 0 of 6 distinct answers were there before" in caplog.text

    @pytest.mark.parametrize("charset", ["punycode", "rot13", "zlib", "utf-16", "no-such"])
    def test_a_servers_charset_chooses_no_codec(self, tmp_path: Path, charset: str) -> None:
        body = Misbehaviour(401, "Schlüssel " + 5_000 * "-é", {"Content-Type": f"text/plain; charset={charset}"})
        with serve(lambda *_: body) as server, pytest.raises(ValueError, match="HTTP 401: Schlüssel -é-é"):
            flags(judge(server, tmp_path))

    def test_a_variable_that_is_not_set_is_named_before_anything_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("JUDGE_TEST_KEY")
        with serve(honest) as server:
            with pytest.raises(ValueError, match=r"judge\.api_key_env=JUDGE_TEST_KEY: .*not set"):
                flags(judge(server, tmp_path, api_key_env="JUDGE_TEST_KEY"))
            assert not server.asked

    @pytest.mark.parametrize(
        "override", [f"judge.api_key_env={KEY}", f"+judge.api_key={KEY}", f"judge.base_url=https://u:{KEY}@host/v1"]
    )
    def test_a_key_put_into_the_configuration_is_refused_unseen(self, override: str) -> None:
        from asft.cells.compose import enumerate_cells

        with pytest.raises(ValueError, match=r"judge\.") as caught:
            enumerate_cells(["judge=llm", override], sweep=False)
        assert KEY not in str(caught.value)


def grader(server: Server, cache: Path, **settings: object) -> LLMGrader:
    fast = {"attempts": 2, "timeout": 5.0, "cache": str(cache)}
    return LLMGrader(base_url=server.url, model="m", **{**fast, **settings})  # type: ignore[arg-type]


def test_grades_and_answers_without_one(tmp_path: Path) -> None:
    def script(question: str, _: int) -> str:
        return "[[-1]]" if "BAD two" in question else "Poor. [[2]]" if "BAD" in question else "Good. [[9]]"

    with serve(script) as server:
        asked = grader(server, tmp_path)
        grades = asked.grade(PROMPTS, ANSWERS)
        assert [grade.value for grade in grades] == [9, 2, 9, None, 9, 9]
        assert asked.summary(grades) == {"prompt_tokens": 700, "completion_tokens": 70, "ungraded": 1}
        with pytest.raises(ValueError, match=r"1 of 6 replies hold no grade .*\[\[-1\]\]"):
            grader(server, tmp_path, malformed="fail").grade(PROMPTS, ANSWERS)


def test_no_grade_at_all_is_an_error(tmp_path: Path) -> None:
    script: Script = lambda *_: "no idea"  # noqa: E731
    with serve(script) as server, pytest.raises(ValueError, match="6 of 6 replies hold no grade"):
        grader(server, tmp_path).grade(PROMPTS, ANSWERS)
