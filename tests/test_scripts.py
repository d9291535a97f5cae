"""The scripts for several machines, run with stand-ins for what only a cluster has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
MANIFEST = SCRIPTS / "kubernetes.yaml"

# Tells how it was started, in place of starting processes.
LAUNCHER = """
import json, os, sys
call = {"arguments": sys.argv[1:], "interface": os.environ.get("GLOO_SOCKET_IFNAME")}
print("CALL " + json.dumps(call), flush=True)
"""
SRUN = """#!/usr/bin/env bash
echo "SRUN $*" | head -n 1
while [[ $1 == --* ]]; do shift; done
for node in 0 1 2; do SLURM_NODEID=$node "$@" || exit; done
"""
SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames node[7-9]" ] && printf '%s\\n' localhost node8 node9
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With launchers that tell what they were asked for, and an empty folder first on PATH."""
    paddles = tmp_path / "paddle" / "distributed" / "launch"
    paddles.mkdir(parents=True)
    ours = tmp_path / "llm_pretrain"
    ours.mkdir()
    for folder in (paddles, *paddles.parents[:2], ours):
        (folder / "__init__.py").touch()
    for package in (paddles, ours):
        (package / "__main__.py").write_text(LAUNCHER)
    (tmp_path / "bin").mkdir()
    return {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "PYTHONSAFEPATH": "1",  # or else the real package in this folder comes first
        "PYTHON": sys.executable,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }


def run(*command: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def calls(output: str) -> list[dict[str, Any]]:
    lines = output.splitlines()
    return [json.loads(line.removeprefix("CALL ")) for line in lines if line.startswith("CALL ")]


def options(call: dict[str, Any]) -> dict[str, str]:
    """The launcher's own options: those before the program or the config; a later value wins."""
    words = call["arguments"][call["arguments"][0] == "launch" :]
    end = next(at for at in range(0, len(words), 2) if not words[at].startswith("--"))
    return dict(zip(words[:end:2], words[1:end:2], strict=True))


def install(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def launch(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, SCRIPTS / "launch_node.py", *arguments, environment=environment)


def test_launch_node_finds_the_addresses(environment: dict[str, str]) -> None:
    result = launch(environment, 2, 1, "127.0.0.1:9000", "run_pretrain.py", "run.json", "--bf16")
    assert result.returncode == 0, result.stderr
    (call,) = calls(result.stdout)
    assert options(call) == {
        "--nnodes": "2",
        "--rank": "1",
        "--master": "127.0.0.1:9000",
        "--host": "127.0.0.1",
        "--log_level": "WARNING",
        "--log_dir": "log/node-1",
    }
    assert call["arguments"][-3:] == ["run_pretrain.py", "run.json", "--bf16"]
    assert call["interface"] == "lo"


def test_launch_node_leaves_the_users_choices(environment: dict[str, str]) -> None:
    environment["GLOO_SOCKET_IFNAME"] = "bond0"
    result = launch(environment, 2, 0, "localhost", "--log_dir", "logs", "run_pretrain.py")
    (call,) = calls(result.stdout)
    assert options(call)["--log_dir"] == "logs"
    assert options(call)["--master"] == "127.0.0.1:8476"
    assert call["interface"] == "bond0"


def test_launch_node_starts_the_launcher_that_keeps_a_job_alive(
    environment: dict[str, str],
) -> None:
    result = launch(environment, 2, 1, "127.0.0.1", "--nproc", 4, "run.json", "--bf16")
    (call,) = calls(result.stdout)
    words = "launch --node_rank 1 --nnodes 2 --master 127.0.0.1:8476 --log_dir log/node-1"
    assert call["arguments"] == [*words.split(), "--nproc", "4", "run.json", "--bf16"]
    assert call["interface"] == "lo"


@pytest.mark.parametrize(("nodes", "rank"), [("2", "2"), ("two", "0"), ("2", "-1")])
def test_launch_node_refuses_a_rank_that_is_none(
    environment: dict[str, str], nodes: str, rank: str
) -> None:
    result = launch(environment, nodes, rank, "localhost", "run_pretrain.py")
    assert result.returncode == 1
    assert f"RANK is {rank} and NODES is {nodes}" in result.stderr
    assert not calls(result.stdout)


def test_launch_node_refuses_a_name_that_only_this_machine_understands(
    environment: dict[str, str],
) -> None:
    """Debian's /etc/hosts gives a machine's own name the address 127.0.1.1."""
    program = "import runpy, socket; socket.gethostbyname = lambda name: '127.0.1.1'; "
    program += f"runpy.run_path({str(SCRIPTS / 'launch_node.py')!r}, run_name='__main__')"
    command = (sys.executable, "-c", program, 2, 0, "node0", "run_pretrain.py")
    result = run(*command, environment=environment)
    assert result.returncode == 1
    assert "'node0' is 127.0.1.1 on this machine" in result.stderr


def test_slurm_starts_one_launcher_per_node(environment: dict[str, str], tmp_path: Path) -> None:
    install(tmp_path / "bin", "srun", SRUN)
    install(tmp_path / "bin", "scontrol", SCONTROL)
    environment |= {
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "node[7-9]",
        "SLURM_NNODES": "3",
        "SLURM_JOB_ID": "77",
        "CUDA_VISIBLE_DEVICES": "",
    }
    result = run(SCRIPTS / "slurm.sh", "run.json", "--input_dir", "a b", environment=environment)
    assert result.returncode == 0, result.stderr
    assert "SRUN --kill-on-bad-exit=1 " in result.stdout
    found = calls(result.stdout)
    assert [options(call)["--node_rank"] for call in found] == ["0", "1", "2"]
    for call in found:
        assert options(call)["--nnodes"] == "3"
        assert options(call)["--master"] == "127.0.0.1:8476", "the first of the nodes"
        assert call["arguments"][0] == "launch"
        assert call["arguments"][-3:] == ["run.json", "--input_dir", "a b"]
    assert len({options(call)["--log_dir"] for call in found}) == 3


def test_slurm_saves_before_its_time_is_over_and_is_queued_again(
    environment: dict[str, str], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    # A step that goes on for some time after the signal, as a save does.
    install(
        tmp_path / "bin",
        "srun",
        f"""#!/usr/bin/env bash
trap 'sleep 1; echo saved >> {told}; exit 143' TERM
echo $$ > {tmp_path}/step
kill -USR1 $PPID
while true; do sleep 0.1; done
""",
    )
    install(
        tmp_path / "bin",
        "scancel",
        f"""#!/usr/bin/env bash
[ "$*" = "--signal=TERM 77" ] && kill -TERM "$(cat {tmp_path}/step)"
""",
    )
    install(tmp_path / "bin", "scontrol", f'#!/bin/sh\necho node7; echo "$*" >> {told}\n')
    environment |= {
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "node[7-9]",
        "SLURM_JOB_ID": "77",
    }
    run(SCRIPTS / "slurm.sh", "run.json", environment=environment)
    assert told.read_text().splitlines() == ["show hostnames node[7-9]", "saved", "requeue 77"]
    head = (SCRIPTS / "slurm.sh").read_text()
    for option in ("requeue", "open-mode=append", "signal=B:USR1@300"):
        assert f"\n#SBATCH --{option}\n" in head


def test_slurm_ends_with_the_steps_status(environment: dict[str, str], tmp_path: Path) -> None:
    install(tmp_path / "bin", "srun", "#!/bin/sh\nexit 3\n")
    install(tmp_path / "bin", "scontrol", "#!/bin/sh\necho $1 >&2; echo node7\n")
    environment |= {
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "node7",
        "SLURM_JOB_ID": "77",
    }
    result = run(SCRIPTS / "slurm.sh", "run.json", environment=environment)
    assert result.returncode == 3
    assert "requeue" not in result.stderr


def test_the_pages_commands_run(environment: dict[str, str], tmp_path: Path) -> None:
    install(tmp_path / "bin", "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    install(tmp_path / "bin", "srun", SRUN)
    install(tmp_path / "bin", "scontrol", SCONTROL)
    install(tmp_path / "bin", "sbatch", '#!/bin/sh\n[ "$1" = --nodes ] && shift 2 && exec "$@"\n')
    install(
        tmp_path / "bin", "kubectl", '#!/bin/sh\n[ "$1 $2" = "create --filename" ] && cat "$3"\n'
    )
    environment |= {
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "node[7-9]",
        "SLURM_NNODES": "3",
        "SLURM_JOB_ID": "77",
    }
    page = (ROOT / "docs" / "multi_node.md").read_text(encoding="utf-8")
    commands = "".join(re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    script = commands.replace(" node0 ", " localhost ")
    result = run("bash", "-euc", script, environment=environment)
    assert result.returncode == 0, result.stderr
    found = [options(call) for call in calls(result.stdout)]
    assert [call["--rank"] for call in found[:2]] == ["0", "1"], "launch_node.py run_pretrain.py"
    assert [call["--node_rank"] for call in found[2:]] == ["0", "1", "2"], "slurm.sh"
    assert result.stdout.endswith(MANIFEST.read_text())


@pytest.mark.parametrize("version", ["1.28", "1.31", "1.34"])
def test_the_manifest_is_valid(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for resource in yaml.safe_load_all(MANIFEST.read_text()):
        validate(resource, version, strict=True)


def test_the_manifests_parts_fit_together() -> None:
    service, job = yaml.safe_load_all(MANIFEST.read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values["NODES"] == str(job["spec"]["completions"]) == str(job["spec"]["parallelism"])
    assert job["spec"]["backoffLimit"] >= 10 * job["spec"]["completions"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    first_pod = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert first_pod in container["command"][-1].split()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_manifests_command_starts_its_node(environment: dict[str, str], tmp_path: Path) -> None:
    _, job = yaml.safe_load_all(MANIFEST.read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    install(tmp_path / "bin", "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    environment |= {entry["name"]: entry["value"] for entry in container["env"]}
    environment["JOB_COMPLETION_INDEX"] = "1"
    command = [
        part.replace("llm-pretrain-0.llm-pretrain", "localhost") for part in container["command"]
    ]
    result = run(*command, environment=environment)
    assert result.returncode == 0, result.stderr
    (call,) = calls(result.stdout)
    assert (options(call)["--nnodes"], options(call)["--node_rank"]) == ("2", "1")
    assert (call["arguments"][0], call["arguments"][-1]) == ("launch", "/shared/config.json")
