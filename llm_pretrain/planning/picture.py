"""Plans as a picture: for each its memory and the time of a step, in bars of parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from llm_pretrain.planning.machines import Machine
from llm_pretrain.planning.plan import Plan
from llm_pretrain.planning.profile import total
from llm_pretrain.planning.report import GIB, MEMORY_PARTS, TIME_PARTS

_WIDTH, _BAR, _ROW, _LEFT = 960, 16, 64, 20
# Okabe and Ito's colours, which people who see few colours tell apart.
_COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999",
    "#000000", "#6a3d9a", "#b15928", "#b2df8a", "#fb9a99",
)  # fmt: skip


def draw(plans: Sequence[Plan], machine: Machine) -> str:
    """An SVG. Bars of memory end at the device's memory, bars of time at the slowest step."""
    slowest = max(plan.step.total for plan in plans)
    body: list[str] = []
    for number, plan in enumerate(plans):
        top = 20 + number * _ROW
        title = (
            f"{plan.layout.describe()}: {plan.tokens_per_second_per_device:,.0f} tokens/s/device, "
            f"{total(plan.memory) / GIB:,.1f} GiB"
        )
        body.append(_text(_LEFT, top, title))
        body += _bar(top + 6, plan.memory, MEMORY_PARTS, machine.memory)
        body += _bar(top + 8 + _BAR, plan.step.seconds, TIME_PARTS, slowest)
    top = 30 + len(plans) * _ROW
    for parts, title in ((MEMORY_PARTS, "upper bar, memory"), (TIME_PARTS, "lower bar, a step")):
        body.append(_text(_LEFT, top, title))
        body += _legend(top + 8, parts)
        top += 30 + 18 * -(-len(parts) // 4)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _bar(
    top: float, parts: Mapping[str, float], titles: Mapping[str, str], whole: float
) -> Iterator[str]:
    room = _WIDTH - 2 * _LEFT
    left = float(_LEFT)
    yield f'<rect x="{_LEFT}" y="{top}" width="{room}" height="{_BAR}" fill="#eeeeee"/>'
    for number, (part, title) in enumerate(titles.items()):
        width = room * parts.get(part, 0.0) / whole
        if width < 0.05:
            continue
        yield (
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" '
            f'fill="{_COLOURS[number]}"><title>{escape(title)}</title></rect>'
        )
        left += width


def _legend(top: float, titles: Mapping[str, str]) -> Iterator[str]:
    for number, title in enumerate(titles.values()):
        row, column = divmod(number, 4)
        x, y = _LEFT + column * 230, top + row * 18
        yield f'<rect x="{x}" y="{y}" width="10" height="10" fill="{_COLOURS[number]}"/>'
        yield _text(x + 16, y + 10, title)


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}">{escape(text)}</text>'
