"""How much of a step's communication has products beside it, by the emulated device's trace.

`python -m tests.emulated_device.hidden_communication` trains every layout and writes
docs/communication.md and its twin in Chinese.
"""

from __future__ import annotations

import bisect
import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tests.emulated_device.compile_plugin import DEVICE, environment
from tests.launching import ROOT, logged, run_job
from tests.parity.grid import CP2, DP2, PP2, SD2, SEP2, TP2, Layout, stage
from tests.small_runs import small_config, write_config, write_data, write_model

PAGE = ROOT / "docs" / "communication.md"
PAGE_IN_CHINESE = ROOT / "docs" / "communication_zh.md"
PRODUCTS = frozenset({"matmul", "matmul_grad", "bmm", "bmm_grad"})
PROCESSES = 2
STEPS = 3
COUNTED = 2
"""The step whose communication is counted; products of the next may be beside it."""
METRICS = ("loss", "global_norm")

SYNCHRONOUS, ON_A_CPU, ON_AN_ACCELERATOR = "synchronous", "as on a CPU", "on an accelerator"
FORMS = (SYNCHRONOUS, ON_A_CPU, ON_AN_ACCELERATOR)

WIDTH, LAYERS = 256, 3
LAYOUTS: dict[str, tuple[Layout, dict[str, Any]]] = {
    "dp2": (DP2, {}),
    "sd2, stage 1": (SD2, stage(1)),
    "sd2, stage 2": (SD2, stage(2)),
    "sd2, stage 3": (SD2, stage(3)),
    "tp2": (TP2, {}),
    "tp2, sequence parallel": (TP2, {"sequence_parallel": True}),
    "pp2": (PP2, {}),
    "sep2": (SEP2, {}),
    "cp2": (CP2, {}),
}


@dataclass(frozen=True)
class Operation:
    """A line of the trace: what was queued, and all that it comes after."""

    kind: str
    name: str
    stream: int
    bytes: int
    clock: tuple[int, ...]

    @property
    def number(self) -> int:
        return self.clock[self.stream]

    def known(self, stream: int) -> int:
        """The last operation of a stream that this one comes after."""
        return self.clock[stream] if stream < len(self.clock) else 0


@dataclass(frozen=True)
class Share:
    """Of the communication of a step, over all ranks."""

    hidden: int
    bytes: int

    def __add__(self, other: Share) -> Share:
        return Share(self.hidden + other.hidden, self.bytes + other.bytes)

    @property
    def percent(self) -> int:
        return 100 * self.hidden // self.bytes


def read(trace: Path) -> dict[str, list[Operation]]:
    """What was queued after each mark."""
    found: dict[str, list[Operation]] = {"": []}
    mark = ""
    for line in map(json.loads, trace.read_text(encoding="utf-8").splitlines()):
        if "mark" in line:
            mark = line["mark"]
            found[mark] = []
        else:
            size = max(line["read"], line["written"])
            clock = tuple(line["clock"])
            found[mark].append(Operation(line["kind"], line["name"], line["stream"], size, clock))
    return found


def share_hidden(counted: list[Operation], operations: list[Operation]) -> Share:
    """Of the communication among `counted`, what has a product of `operations` to itself.

    A product is beside it where neither waits for the other. It hides one collective; those whose
    last product comes first choose first.
    """
    products = [one for one in operations if one.kind == "kernel" and one.name in PRODUCTS]
    streams = {product.stream for product in products}
    assert len(streams) <= 1, "the products of a process follow one another"
    numbers = [product.number for product in products]
    communication = [one for one in counted if one.kind == "communication"]
    beside = []
    for one in communication:
        begin = bisect.bisect_right(numbers, max(map(one.known, streams), default=0))
        end = bisect.bisect_left(
            products, one.number, key=lambda product, stream=one.stream: product.known(stream)
        )
        beside.append((end, begin, one.bytes))
    free = [True] * len(products)
    hidden = 0
    for end, begin, size in sorted(beside):
        chosen = next((number for number in range(begin, end) if free[number]), None)
        if chosen is not None:
            free[chosen] = False
            hidden += size
    return Share(hidden, sum(one.bytes for one in communication))


def measure(
    folder: Path, form: str, names: list[str]
) -> tuple[dict[str, Share], dict[str, list[float]]]:
    """Train layouts on the device: what is hidden in each, and the numbers that it logs."""
    write_data(folder / "data")
    # Wide enough for several buckets of the smallest size.
    model = write_model(folder / "model", hidden_size=WIDTH, intermediate_size=2 * WIDTH)
    here = folder / form.replace(" ", "-")
    here.mkdir()
    paths = []
    for number, name in enumerate(names):
        layout, options = LAYOUTS[name]
        assert layout.layers == LAYERS
        config = small_config(
            model,
            folder / "data",
            here / str(number),
            max_steps=STEPS,
            sharding_comm_buffer_size_MB=1,
            **layout.options,
            **options,
        )
        paths.append(str(write_config(here / f"{number}.json", config)))
    (here / "cases.json").write_text(json.dumps(paths))
    run_job(
        Path(__file__),
        here / "cases.json",
        form,
        processes=PROCESSES,
        log_dir=here / "log",
        environment=environment(trace=here / "trace"),
        timeout=1800,
    )
    shares = dict.fromkeys(names, Share(0, 0))
    for rank in range(PROCESSES):
        by_mark = read(here / f"trace.{rank}")
        for number, name in enumerate(names):
            steps = [by_mark[f"{number} {step + 1}"] for step in range(STEPS)]
            shares[name] += share_hidden(steps[COUNTED - 1], [*chain(*steps)])
    metrics = {
        name: [line[metric] for line in logged(here / str(number)) for metric in METRICS]
        for number, name in enumerate(names)
    }
    return shares, metrics


def train(cases: list[str], form: str) -> None:
    """In each process of a launch: train every case, and mark its steps in the trace."""
    import paddle.distributed as dist  # after llm_pretrain, whose settings must come first

    from llm_pretrain.parallel.comm import collectives
    from llm_pretrain.training.trainer import Trainer
    from tests.parity import worker

    if form != ON_AN_ACCELERATOR:
        collectives.overlap = lambda: False
    if form == SYNCHRONOUS:
        # All but messages: two ranks of a pipeline would wait for each other.
        for name in ("all_reduce", "all_gather", "reduce_scatter", "alltoall_single"):
            setattr(dist.stream, name, _synchronous(getattr(dist.stream, name)))
    plugin = ctypes.CDLL(str(Path(os.environ["CUSTOM_DEVICE_ROOT"]) / "libemulated.so"))
    marks = (f"{number} {step + 1}" for number in range(len(cases)) for step in range(STEPS))
    Trainer.step = _marked(Trainer.step, marks, plugin.emulated_device_mark)  # type: ignore
    worker.main(cases, DEVICE)


def _synchronous(operation: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        # As the last of the arguments, or by its name.
        return operation(*arguments, **{**options, "sync_op": True})

    return call


def _marked(
    step: Callable[..., Any], marks: Iterator[str], mark: Callable[[bytes], Any]
) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        mark(next(marks).encode())
        return step(*arguments, **options)

    return call


HEAD = f"""# Communication beside computation

[中文](communication_zh.md)

Generated by `python -m tests.emulated_device.hidden_communication`; nothing here is typed by hand.

On an accelerator collectives run in streams of their own. What they bring is waited for where it is
used, and meanwhile the products of the step go on:

- Tensor parallel: the gradient of a column-parallel layer's input is summed over the ranks (with
  sequence parallelism: summed and scattered) while the gradients of its weights are computed. What
  goes forward, and with sequence parallelism what is gathered backward, is needed at once.
- Data parallel and sharding: a bucket of gradients is reduced while the backward pass goes on.
  Stages 1 and 2 gather updated weights while the next step begins, stage 3 those of the next unit
  while one is computed. Stages 2 and 3 keep up to two buckets of gradients more for that.
- Pipeline: a stage sends while it goes on, and receives the next hidden states or gradients, into
  memory of their own, while it works on those that it has.
- Context parallel: the next keys and values travel while the present ones are attended to. The
  exchange of heads (sep) is needed at once.

All of that is the default, whatever `sharding_parallel_config` and its like say. Over Gloo on CPUs
the gathering of stage 3, sends, the ring and what options ask for go on beside the computation.

The [emulated device](../tests/emulated_device/README.md) counts. Its trace has every operation that
is queued, with what it comes after by streams, events and the host's waiting; no clock is read. A
collective is hidden if there is a product (a kernel of matrix multiplication) that neither waits
for it nor it for; a product hides one collective. The share is by bytes, over all ranks, in the
second of {STEPS} steps of a model of {LAYERS} blocks of width {WIDTH}, with buckets of 1 MB. How
long a collective or a product takes on a real machine it doesn't say.

- {SYNCHRONOUS}: every collective is waited for where it begins, but for messages of a pipeline.
- {ON_A_CPU}: what is the default there.
- {ON_AN_ACCELERATOR}: what is the default there.

Losses and norms of the gradient are the same to the last bit in all three.
"""


HEAD_IN_CHINESE = f"""# 与计算同时进行的通信

[English](communication.md)

由 `python -m tests.emulated_device.hidden_communication` 生成；这里没有手工填写的内容。

在加速卡上，集合通信在自己的流里运行。它带来的数据在用到的地方才等待，
在此之前一步的矩阵乘照常进行：

- 张量并行：按列切分的层，其输入的梯度在各 rank 之间求和（用序列并行时：求和并分发），
  同时计算它的权重的梯度。前向的通信，以及用序列并行时反向的收集，立刻就要用。
- 数据并行和 sharding：反向进行的同时归约一个缓冲区的梯度。
  stage 1 和 2 在下一步开始的同时收集更新后的权重，
  stage 3 在计算一个单元的同时收集下一个单元的权重。stage 2 和 3 为此至多多占两个梯度缓冲区。
- 流水线：一个段在继续计算的同时发送，并在处理已有数据的同时，
  把下一批隐藏状态或梯度接收到另外的内存里。
- context 并行：对现有的键和值计算注意力的同时，传送下一批键和值。头的交换（sep）立刻就要用。

不论 `sharding_parallel_config` 之类怎么写，这些都是默认的。在 CPU 上用 Gloo 时，stage 3 的收集、
发送、环，以及选项所要求的，与计算同时进行。

统计由[模拟设备](../tests/emulated_device/README.md)完成。它的踪迹里有排入队列的每个操作，
以及该操作因流、事件和主机的等待而排在什么之后；不读时钟。如果有一个矩阵乘（矩阵乘法的内核）
既不等待某个集合通信，也不被它等待，这个集合通信就被掩盖；一个矩阵乘掩盖一个集合通信。
比例按字节计，包括所有 rank，取一个有 {LAYERS} 个块、宽度 {WIDTH} 的模型的 {STEPS} 步中的第二步，
缓冲区为 1 MB。它不能说明真实机器上一个集合通信或矩阵乘需要多长时间。

- 同步：除流水线的消息外，每个集合通信在开始之处就等待。
- CPU 上：那里的默认方式。
- 加速卡上：那里的默认方式。

三者的损失和梯度范数逐位相同。
"""


def page(
    shares: dict[str, dict[str, Share]],
    head: str = HEAD,
    columns: str = f"layout | KiB a step | {' | '.join(FORMS)}",
) -> str:
    """The page, of what was hidden in each form of each layout."""
    lines = [f"| {columns} |", "|---" * (len(FORMS) + 2) + "|"]
    for name in LAYOUTS:
        size = shares[ON_AN_ACCELERATOR][name].bytes / 1024
        cells = [f"{shares[form][name].percent}%" for form in FORMS]
        lines.append(f"| {name} | {size:,.0f} | {' | '.join(cells)} |")
    return head + "\n" + "\n".join(lines) + "\n"


def stated(form: str) -> dict[str, int]:
    """The page's shares of a form, in percent, by layout."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text("utf-8").splitlines()]
    column = 2 + FORMS.index(form)
    return {row[0]: int(row[column].rstrip("%")) for row in rows if row[0] in LAYOUTS}


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        found = {form: measure(Path(name), form, list(LAYOUTS)) for form in FORMS}
    for form in FORMS:
        for layout, numbers in found[form][1].items():
            assert numbers == found[SYNCHRONOUS][1][layout], f"{layout} differs, {form}"
    shares = {form: of_form for form, (of_form, _) in found.items()}
    PAGE.write_text(page(shares), encoding="utf-8")
    in_chinese = page(shares, HEAD_IN_CHINESE, "布局 | 每步 KiB | 同步 | CPU 上 | 加速卡上")
    PAGE_IN_CHINESE.write_text(in_chinese, encoding="utf-8")
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
    else:
        sys.exit(main())
