"""`penstock compress-prompt`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.workload import stdlib


def run(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock", "compress-prompt", "--threads", "1", *arguments]
    return subprocess.run(
        command, input=said, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def source() -> str:
    return next(text for _, text in stdlib.texts("held_out") if 6000 < len(text) < 20_000)[:6000]


def test_text_goes_in_and_shorter_text_comes_out(source: str, tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>\n' + source
    page, picture = tmp_path / "o.html", tmp_path / "o.png"
    files = ["--html", str(page), "--png", str(picture)]
    made = run("-", "--keep", "0.4", "--first", "32", *files, said=evil)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("<script>alert")
    assert 0.3 * len(evil) < len(made.stdout) < 0.7 * len(evil)
    left = iter(evil.splitlines())
    assert all(line in left for line in made.stdout.splitlines() if len(line) > 60)
    assert "tokens stay" in made.stderr
    html = page.read_text()
    assert "<script" not in html
    assert "&lt;" in html
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_tells_times_and_prices(source: str, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(source)
    price = ["--price", "in=1,cached=0.1,out=4", "--cached", "1200"]
    made = run(str(file), "--tokens", "700", "--prefill-rate", "1000", *price, "--json")
    assert made.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)
    assert found["kept"] <= 700 < found["tokens"]
    assert found["kept"] == pytest.approx(700, abs=40)
    stays = "".join(piece["text"] for piece in found["pieces"] if piece["kept"])
    assert stays == found["text"]
    even = found["break_even"]
    assert even["times"]["full_s"] == pytest.approx(found["tokens"] / 1000)
    assert 0.5 < even["most_kept"] < 1
    bill = found["bill"]
    assert bill["rest"] < bill["whole"]
    assert 16 <= bill["held"] < 700
    assert bill["shortened"] == pytest.approx(found["kept"] - 0.9 * bill["held"])


def test_what_needs_no_judge_pays_for_none(source: str, tmp_path: Path) -> None:
    page = tmp_path / "o.html"
    asked = ["--way", "end", "--prefill-rate", "1000", "--html", str(page)]
    made = run(*asked, "--json", said=source)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    times = found["break_even"]["times"]
    assert found["score_s"] == times["score_s"] == 0
    assert times["full_s"] - times["short_s"] == pytest.approx(
        (found["tokens"] - found["kept"]) / 1000
    )
    for told in ("surpris", "to judge", "reading alone"):
        assert told not in page.read_text().partition('<div class="prompt">')[0]


def test_of_a_chat_only_what_users_say_gets_shorter(source: str) -> None:
    chat = [
        {"role": "system", "content": source},
        {"role": "user", "content": source},
        {"role": "assistant", "content": source, "name": "a"},
        {"role": "user", "content": json.dumps({"a": source})},
    ]
    made = run("--chat", said=json.dumps({"messages": chat}))
    assert made.returncode == 0, made.stderr
    after = json.loads(made.stdout)
    assert [after[at] for at in (0, 2, 3)] == [chat[at] for at in (0, 2, 3)]
    assert after[1]["role"] == "user"
    assert len(after[1]["content"]) < 0.8 * len(source)


@pytest.mark.parametrize(
    ("arguments", "said", "why"),
    [
        (["--keep", "0"], "text", "keep=0.0"),
        ([], "  ", "prompt is empty"),
        (["--model", "nowhere"], "text", "nowhere"),
        (["/no/such/file"], "", "/no/such/file"),
        (["--protect", "("], "text", "no regular expression"),
        (["--chat"], "text", "JSON list of messages"),
        (["--chat"], '[{"role": "system", "content": "x"}]', "no message may be shortened"),
        (["--chat"], '[{"role": "user", "content": " "}]', "no message may be shortened"),
        (["--cached", "3"], "text", "--price"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], said: str, why: str) -> None:
    made = run(*arguments, said=said)
    assert made.returncode != 0
    assert why in made.stderr
    assert "Traceback" not in made.stderr
