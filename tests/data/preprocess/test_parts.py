"""A corpus that several machines turn into token data gives the bytes of one machine."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kubernetes_validate import validate

from llm_pretrain.data.preprocess import inputs
from llm_pretrain.data.preprocess.parts import Part
from tests.data.preprocess.test_resume import contents, interrupt_at
from tests.launching import ROOT

Run = Callable[..., int]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Seven files of different sizes and kinds; each repeats half of the one before."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(7):
        first = 20 * number
        last = first + 30 + 10 * (number % 3)
        texts = [f"document {n} " * (1 + n % 5) for n in range(first, last)]
        lines = "\n".join(json.dumps({"text": text}) for text in texts).encode()
        if number % 2:
            (folder / f"{number}.jsonl").write_bytes(lines)
        else:
            (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines))
    return folder


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--append_eos", "--remove_duplicates", "--held_out_share", "0.2"),
        ("--remove_duplicates", "--sample_share", "0.7"),
    ],
    ids=["all", "once, some held out", "a share"],
)
def test_joined_parts_are_the_files_of_one_machine(
    count: int, options: tuple[str, ...], preprocess: Run, corpus: Path, tmp_path: Path
) -> None:
    assert preprocess(corpus, tmp_path / "one" / "text", *options) == 0
    joined = tmp_path / "joined" / "text"
    for part in reversed(Part.all(count)):
        assert preprocess(corpus, joined, *options, "--part", str(part)) == 0
    assert preprocess(corpus, joined, *options, "--join_parts", str(count)) == 0
    assert contents(tmp_path / "joined") == contents(tmp_path / "one")


def test_the_last_lines_are_those_of_one_machine(
    preprocess: Run, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--remove_duplicates", "--held_out_share", "0.2")
    assert preprocess(corpus, tmp_path / "one" / "text", *options) == 0
    one = capsys.readouterr().out.splitlines()
    for part in Part.all(3):
        preprocess(corpus, tmp_path / "joined" / "text", *options, "--part", str(part))
    capsys.readouterr()
    assert preprocess(corpus, tmp_path / "joined" / "text", *options, "--join_parts", "3") == 0
    joined = capsys.readouterr().out.splitlines()

    def counts(lines: list[str]) -> list[str]:
        return [line.split(" of type")[0].replace("/joined/", "/one/") for line in lines[-3:]]

    assert counts(joined) == counts(one)


def test_a_part_that_fails_is_done_again(
    preprocess: Run,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert preprocess(corpus, tmp_path / "one" / "text") == 0
    joined = tmp_path / "joined" / "text"
    assert preprocess(corpus, joined, "--part", "1/2") == 0
    with monkeypatch.context() as broken:
        interrupt_at(broken, "6.jsonl.gz")
        assert preprocess(corpus, joined, "--part", "2/2") == 130
    assert preprocess(corpus, joined, "--join_parts", "2") == 1
    error = capsys.readouterr().err
    assert "part 2/2 is not done, it is begun: the same command with --part 2/2 does it" in error
    assert "part 1/2" not in error
    assert preprocess(corpus, joined, "--part", "2/2") == 0
    assert "Going on from an interrupted run" in capsys.readouterr().out
    assert preprocess(corpus, joined, "--part", "2/2") == 0
    assert "is done already" in capsys.readouterr().out
    assert preprocess(corpus, joined, "--join_parts", "2") == 0
    assert contents(tmp_path / "joined") == contents(tmp_path / "one")


def test_parts_of_other_inputs_or_options_are_not_joined(
    preprocess: Run, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tmp_path / "joined" / "text"
    for part in ("1/2", "2/2"):
        assert preprocess(corpus, prefix, "--part", part) == 0
    assert preprocess(corpus, prefix, "--append_eos", "--join_parts", "2") == 1
    assert "is of another --append_eos" in capsys.readouterr().err
    (corpus / "1.jsonl").write_text('{"text": "another"}')
    assert preprocess(corpus, prefix, "--join_parts", "2") == 1
    assert "is of another list of input files" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_what_is_no_part(
    text: str, preprocess: Run, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess(corpus, tmp_path / "text", f"--part={text}") == 2
    assert f"{text} is not I/N" in capsys.readouterr().err


def test_a_part_knows_no_number_of_all_documents(
    preprocess: Run, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess(corpus, tmp_path / "text", "--part", "1/2", "--max_doc_num", "9") == 1
    assert "--max_doc_num: a part can't know" in capsys.readouterr().err


def test_parts_have_about_the_same_bytes(corpus: Path) -> None:
    sources, _ = inputs.find_sources([str(corpus)])
    parts = [part.of(sources) for part in Part.all(3)]
    assert [source for part in parts for source in part] == sources
    sizes = [sum(source.size for source in part) for part in parts]
    assert max(sizes) - min(sizes) <= 2 * max(source.size for source in sources)


# Runs at once what it is to queue, of an array each job.
SBATCH = """#!/usr/bin/env bash
echo "$*" >> "$TOLD"
tasks=0
for word; do case $word in --array=1-*) tasks=${word#--array=1-};; esac; done
wrapped=${!#}
if [ "$tasks" = 0 ]; then bash -c "$wrapped" >&2; exit; fi
for task in $(seq "$tasks"); do SLURM_ARRAY_TASK_ID=$task bash -c "$wrapped" >&2 || exit; done
echo "41;cluster"
"""


def test_the_script_for_slurm(
    preprocess: Run, tokenizer: Path, corpus: Path, tmp_path: Path
) -> None:
    assert preprocess(corpus, tmp_path / "one" / "text", "--remove_duplicates") == 0
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "SBATCH_OPTIONS": "--partition cpu",
        "TOLD": str(tmp_path / "told"),
    }
    words = ["--model_name_or_path", tokenizer, "--input_path", corpus, "--remove_duplicates"]
    words += ["--output_prefix", tmp_path / "joined" / "text"]
    command = [ROOT / "scripts" / "preprocess_slurm.sh", "3", *words]
    run = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert contents(tmp_path / "joined") == contents(tmp_path / "one")
    first, second = (tmp_path / "told").read_text().splitlines()
    assert "--array=1-3" in first
    assert "--dependency=afterok:41 " in second
    for told in (first, second):
        assert " --partition cpu " in told


def test_the_manifest_for_kubernetes(
    preprocess: Run, tokenizer: Path, corpus: Path, tmp_path: Path
) -> None:
    (job,) = yaml.safe_load_all((ROOT / "scripts" / "preprocess_kubernetes.yaml").read_text())
    validate(job, "1.28", strict=True)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (parts,) = container["env"]
    assert parts == {"name": "PARTS", "value": str(job["spec"]["completions"])}
    places = {"/shared/tokenizer": tokenizer, "/shared/corpus": corpus}
    places["/shared/data/corpus"] = tmp_path / "joined" / "text"
    arguments = [str(places.get(word, word)) for word in container["args"]]
    environment = {**os.environ, "PARTS": "2", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for index in ("0", "1"):
        pod = {**environment, "JOB_COMPLETION_INDEX": index}
        subprocess.run([*container["command"], *arguments], env=pod, check=True, cwd=ROOT)
    options = ("--append_eos", "--remove_duplicates")
    assert preprocess(corpus, tmp_path / "joined" / "text", *options, "--join_parts", "2") == 0
    assert preprocess(corpus, tmp_path / "one" / "text", *options) == 0
    assert contents(tmp_path / "joined") == contents(tmp_path / "one")
