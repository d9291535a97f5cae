"""The page's own words in English and Chinese; what a run's files hold stays as it is."""

from __future__ import annotations

from collections.abc import Mapping

LANGUAGES = ("en", "zh")

_WORDS: Mapping[str, tuple[str, str]] = {
    "report": ("Report of a run", "训练报告"),
    "comparison": ("Comparison of {count} runs", "{count} 次训练对比"),
    "run": ("Run", "训练"),
    "state": ("State", "状态"),
    "running": ("running", "运行中"),
    "done": ("done", "已完成"),
    "stopped": ("stopped", "已停止"),
    "failed": ("failed", "失败"),
    "interrupted": ("interrupted", "中断"),
    "not begun": ("not begun", "未开始"),
    "step": ("Step", "步"),
    "tokens": ("Tokens", "token"),
    "loss": ("Loss", "损失"),
    "perplexity": ("Perplexity", "困惑度"),
    "bits per byte": ("Bits per byte", "每字节比特数"),
    "evaluation loss": ("Evaluation loss", "评估损失"),
    "evaluation": ("Evaluation", "评估"),
    "hours": ("Hours", "小时"),
    "speed": ("Tokens/s/device", "token/秒/设备"),
    "mfu": ("MFU", "MFU"),
    "goodput": ("Goodput", "有效时间占比"),
    "parameters": ("Parameters", "参数量"),
    "difference": ("Difference", "差值"),
    "difference note": (
        "The difference is that of the last evaluation loss to the first run's.",
        "差值指最后一次评估损失与第一次训练之差。",
    ),
    "raw": ("as logged", "原始值"),
    "smoothed": ("smoothed", "平滑值"),
    "planned": ("planned", "计划值"),
    "save": ("Checkpoint", "检查点"),
    "spike": ("Spike", "突升"),
    "not_finite": ("Not finite", "非有限值"),
    "restart": ("Restart", "重启"),
    "rewind": ("Rewind", "回退"),
    "event": ("Event", "事件"),
    "above": ("{count} above the picture", "{count} 个点超出图上方"),
    "marks left out": ("{count} more marks are left out", "另有 {count} 个标记未画出"),
    "curves": ("Curves", "曲线"),
    "loss curve": ("Loss over tokens", "损失随 token 数的变化"),
    "loss curve of steps": ("Loss over steps", "损失随步数的变化"),
    "norm": ("Norm of the gradient", "梯度范数"),
    "rate": ("Learning rate", "学习率"),
    "memory": ("Most memory allocated, MiB", "显存（内存）峰值，MiB"),
    "waiting for data": ("Waiting for data, share of a step", "等待数据占比"),
    "no steps": ("No step has been logged.", "还没有记录任何一步。"),
    "time": ("Where the time went", "时间花在哪里"),
    "share": ("Share", "占比"),
    "wall": ("of {hours} h since the first start", "自首次启动以来共 {hours} 小时"),
    "training": ("training", "训练"),
    "start": ("start", "启动"),
    "saving": ("saving", "保存"),
    "data": ("waiting for data", "等待数据"),
    "repeated": ("repeated steps", "重复的步"),
    "down": ("down", "停机"),
    "other": ("other", "其他"),
    "ranks": ("The ranks' own time", "各 rank 自身耗时"),
    "ranks note": (
        "Seconds that a rank computed in a step without waiting for others, over steps",
        "每个 rank 在一步中不含等待他人的计算秒数（按步）",
    ),
    "slowest": ("slowest rank", "最慢的 rank"),
    "median": ("median", "中位数"),
    "grid note": (
        "How often each rank was the slowest, of {count} logged steps.",
        "在 {count} 个记录的步中，每个 rank 最慢的次数占比。",
    ),
    "pipeline": ("The pipeline's schedule", "流水线调度"),
    "pipeline note": (
        "{ranks} stages, {chunks} chunks each, {micro_batches} micro-batches a step. Drawn from "
        "the schedule, with a backward pass twice as long as a forward one and sends that take no "
        "time: the stages then wait {bubble} of the step.",
        "{ranks} 段，每段 {chunks} 块，每步 {micro_batches} 个微批次。按调度表绘制，"
        "假设反向耗时为前向的两倍、通信不耗时：此时各段有 {bubble} 的时间在等待。",
    ),
    "pipeline part": ("Drawn: {count} micro-batches.", "图中画出 {count} 个微批次。"),
    "pipeline too large": ("It has too many stages to be drawn.", "段数过多，无法绘制。"),
    "stage": ("stage", "段"),
    "forward": ("forward", "前向"),
    "backward": ("backward", "反向"),
    "sample": ("Sample", "文本样例"),
    "samples": ("Samples of text", "文本样例"),
    "prompt": ("Prompt", "提示"),
    "text": ("Text", "文本"),
    "configuration": ("Configuration", "配置"),
    "configuration note": ("What is not a default, with its source.", "非默认的配置项及其来源。"),
    "defaults": ("{count} defaults", "{count} 个默认值"),
    "differing": ("What differs in configuration", "配置的差异"),
    "nothing differs": (
        "The configurations are the same, but for where they write.",
        "除写入位置外，配置完全相同。",
    ),
    "key": ("Key", "键"),
    "value": ("Value", "值"),
    "source": ("Source", "来源"),
    "command line": ("command line", "命令行"),
    "environment": ("Environment", "环境"),
    "repeat": ("To repeat it", "重复本次训练"),
    "in folder": ("in {folder}", "在 {folder} 中"),
    "git": ("git commit", "git 提交"),
    "starts": ("Starts", "启动记录"),
    "when": ("When", "时间"),
    "processes": ("Processes", "进程数"),
    "changes": ("Changed", "改动"),
    "operators": ("Operators", "算子"),
    "no record": (
        "There is no run.json, or it is damaged: configuration, environment and command are "
        "unknown.",
        "没有 run.json 或文件已损坏：配置、环境和命令未知。",
    ),
    "made by": (
        "Made by llm-pretrain report on {date}.",
        "由 llm-pretrain report 于 {date} 生成。",
    ),
    "unknown": ("unknown", "未知"),
}


class Words:
    """The words of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._column = LANGUAGES.index(language)

    def __call__(self, name: str, **values: object) -> str:
        """A word or a sentence by its English name, with its values put in; a name that isn't
        known, such as an event's kind of a later version, stands for itself."""
        text = _WORDS[name][self._column] if name in _WORDS else name
        return text.format(**values) if values else text

    @property
    def tag(self) -> str:
        """For HTML's `lang`."""
        return "zh-CN" if self.language == "zh" else "en"
