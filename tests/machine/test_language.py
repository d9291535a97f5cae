"""Messages in Chinese: each is there, each is recognized where it is shown, and nothing else is."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from itertools import count
from pathlib import Path

import pytest

from llm_pretrain.cli import USAGE, main
from llm_pretrain.config import json_schema
from llm_pretrain.machine.language import FIELD, VARIABLE, language, read_messages, translated
from llm_pretrain.machine.terminal import columns_of, wrap
from tests.messages import PACKAGE, fields, messages

NOT_TRANSLATED = {
    "monitor/metrics_log.py": "PaddleNLP's lines, which programs look for",
    "monitor/prometheus.py": "the page for Prometheus is in English",
    "monitor/report/": "the report has a table of words of its own, in both languages",
    "ops/native/": "what is wrong with the program's own calls",
    "parallel/pipeline/": "what is wrong with the program's own calls",
    "planning/allocator.py": "what is wrong with the program's own calls",
    "planning/picture.py": "SVG",
    "planning/shapes/": "what is wrong with the program's own calls",
}
MODULES = {
    str(path.relative_to(PACKAGE)): found
    for path in sorted(PACKAGE.rglob("*.py"))
    if (found := messages(path))
}
CHINESE = read_messages()
WORDS = CHINESE.pop("words")
PAIRS = [
    (english, chinese)
    for of_module in (*CHINESE.values(), WORDS)
    for english, chinese in of_module.items()
    if chinese is not None
]


@pytest.fixture
def in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "zh")


@pytest.mark.parametrize("module", MODULES)
def test_every_message_of_a_module_has_its_translation(module: str) -> None:
    if module not in CHINESE:
        assert any(module.startswith(room) for room in NOT_TRANSLATED), module
    else:
        assert {*MODULES[module]} - {*CHINESE[module]} == set()
        assert {*CHINESE[module]} - {*MODULES[module]} == set()


def test_there_are_no_translations_of_what_is_not_there() -> None:
    assert set(CHINESE) <= set(MODULES)
    sources = [*PACKAGE.rglob("*.py"), Path(argparse.__file__)]
    source = "".join(path.read_text(encoding="utf-8") for path in sources)
    for word in WORDS:
        assert FIELD.split(word)[0].rstrip(" %:") in source


def test_both_languages_fill_in_the_same() -> None:
    assert len(PAIRS) > 1000
    for english, chinese in PAIRS:
        assert fields(english) == fields(chinese), english
        numbers = [field.strip("{}") for field in FIELD.findall(chinese)]
        assert not any(numbers) or sorted(map(int, numbers)) == [*range(len(numbers))], chinese


def test_a_message_says_the_same_wherever_it_is_said() -> None:
    assert len(dict(PAIRS)) == len(set(PAIRS))


def test_every_message_is_recognized(in_chinese: None) -> None:
    for english, chinese in PAIRS:
        # What follows a word in a sentence begins with a space, and is never said alone.
        if not english.startswith(" ") or english.startswith("  "):
            values = [f"Q{number}" for number in range(fields(english))]
            numbers = count()
            text = FIELD.sub(lambda _, numbers=numbers: f"Q{next(numbers)}", english)
            assert translated(text) == chinese.format(*values)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8", "LC_MESSAGES": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", VARIABLE: "en"}, "en"),
        ({"LANG": "C", VARIABLE: "zh"}, "zh"),
    ],
)
def test_the_variable_wins_over_the_locale(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            "error: run.json, line 3: max_steps: 0 is not a length: pretraining needs max_steps > 0"
            ", since the data are cut into as many samples as the steps take",
            "错误：run.json 第 3 行：max_steps：0 不是长度：预训练需要 max_steps > 0，"
            "因为数据按步数切成相应数目的样本",
        ),
        (
            "Spike at step 1200: loss 7.31 is 9.4 deviations above 2.41; samples 306944 to 307199. "
            "The update is made all the same.",
            "第 1200 步突升：损失 7.31 比 2.41 高 9.4 个标准差；样本 306944 到 307199。照常更新。",
        ),
        (
            "launch: Rank 1 (process 4711) was killed by SIGKILL: the ranks form anew (restart 1 "
            "of 10 within 3600 s).",
            "launch：rank 1 （进程 4711）被 SIGKILL 杀掉：各 rank 重新组队"
            "（3600 秒内第 1 次重启，至多 10 次）。",
        ),
        ("96.8%: start 1.9%, saving 1.2%", "96.8%：启动 1.9%，保存 1.2%"),
        ("Layout: 2 processes = data 2", "布局：2 个进程 = data 2"),
        (
            "50 documents, 33.3%, 5 s left, 2.1 MB/s, 1,105,073 tokens/s",
            "50 篇文档，33.3%，剩余 5 s，2.1 MB/s，每秒 1,105,073 个 token",
        ),
        (
            "Operators by C++: linear, norm, attention, adamw (amx).",
            "由 C++ 实现的算子：linear, norm, attention, adamw（amx）。",
        ),
        # What is not known, and what is a user's, stays as it is.
        ("Segmentation fault: 11, of no known kind", "Segmentation fault: 11, of no known kind"),
        (
            "error: /data/The run goes back./x.json: there is no such file",
            "错误：/data/The run goes back./x.json：没有这个文件",
        ),
        (
            '  document 3: "no such thing. The run goes back."',
            '  文档 3："no such thing. The run goes back."',
        ),
    ],
)
def test_what_is_shown(english: str, chinese: str, in_chinese: None) -> None:
    assert translated(english) == chinese


def test_english_stays_english() -> None:
    assert all(translated(english) == english for english, _ in PAIRS)


def test_check_answers_in_chinese(
    tmp_path: Path, in_chinese: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.json"
    config.write_text('{"max_steps": 0, "learning_rat": 1, "output_dir": "The run goes back."}')
    assert main(["check", str(config)]) == 1
    shown = capsys.readouterr()
    assert (
        "错误：run.json 第 1 行：learning_rat：没有这个键；是不是想写 learning_rate？" in shown.err
    )
    assert "max_steps：0 不是长度" in shown.err
    assert "个问题" in shown.err
    assert "The run goes back." in shown.out
    assert "\n提示\n" in shown.out


COMMANDS = re.findall(r"^  ([a-z]+) ", USAGE, re.MULTILINE)


@pytest.mark.parametrize("command", [None, *dict.fromkeys(COMMANDS)])
def test_help_is_in_chinese(
    command: str | None,
    in_chinese: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.suppress(SystemExit):  # by which the standard library ends after help
        assert main([*([command] if command else []), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("用法： llm-pretrain ")
    assert not re.search("[A-Za-z,.]{2,} [a-z]{2,} [a-z]{2,}", shown)
    assert max(map(columns_of, shown.splitlines())) <= 80


def test_a_wrong_command_line_is_told_in_chinese(
    in_chinese: None, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        ("generate",): "错误：必须给出以下参数：DIR, --prompt",
        ("report", "--language", "fr", "run"): "错误：参数 --language：不能选择 'fr'（可选：",
        ("report", "-o"): "错误：参数 -o/--output：需要一个值",
        ("runs", "--al"): "错误：不认识的参数：--al",
        (
            "inspect",
            "data",
            "--documents",
            "many",
        ): "错误：参数 --documents：int 类型的值不对：'many'",
    }
    for words, said in wrong.items():
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_the_schema_explains_keys_in_chinese(in_chinese: None) -> None:
    keys = json_schema()["properties"]
    assert keys["learning_rate"]["description"] == "最高的学习率。"
    assert keys["sharding_parallel_config"]["description"].startswith(
        "sharding 的选项名，以空格分隔。有作用的：enable_stage1_overlap：stage1 时，反向进行的同时"
    )
    inert = [value["description"] for value in keys.values() if value.get("deprecated")]
    assert sum(text.startswith(("在这里没有作用：", "读作 ")) for text in inert) == len(inert) > 100


def test_lines_of_chinese_fit_the_terminal() -> None:
    text = (
        "error: 训练改为从 output/run/checkpoint-20 的第 20 步继续，因为之后的检查点都不完整。" * 3
    )
    for columns in (30, 40, 41, 80):
        lines = wrap(text, columns)
        assert all(columns_of(line) <= columns for line in lines)
        assert "".join(line.strip() for line in lines).replace(" ", "") == text.replace(" ", "")
        assert not any(line.lstrip()[0] in "，。" for line in lines)


def test_tests_run_in_english() -> None:
    assert os.environ[VARIABLE] == "en"
