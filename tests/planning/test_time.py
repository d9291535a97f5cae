"""Time of traces made by hand, against arithmetic done by hand."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from llm_pretrain.config import Degrees
from llm_pretrain.planning.machines import Machine, load_machine
from llm_pretrain.planning.step import StageTime, ends_of, play, stage_time, step_time
from llm_pretrain.planning.time import (
    Span,
    attention_seconds,
    message_seconds,
    product_seconds,
    sections,
    spans_of,
    timeline,
)
from llm_pretrain.planning.trace import (
    AttentionProduct,
    Event,
    Mark,
    Message,
    Product,
    Traffic,
    Wait,
)


@pytest.fixture
def machine() -> Machine:
    """100 FLOP/s, 10 bytes/s of memory, 4 and 1 bytes/s between devices; nothing else counts."""
    return replace(
        load_machine("a100-80g"),
        peaks={"float32": 100.0},
        product_efficiency=((1.0, 0.5),),
        processors=1,
        tile_seconds=0.0,
        sustained=1.0,
        kernel_seconds=0.0,
        attention_forward=0.5,
        attention_backward=0.25,
        memory_bandwidth=10.0,
        memory_efficiency=((1.0, 1.0),),
        devices_per_node=4,
        node_bandwidth=4.0,
        node_step_seconds=0.0,
        network_bandwidth=1.0,
        network_step_seconds=0.0,
    )


def test_a_product_takes_its_arithmetic_or_its_memory(machine: Machine) -> None:
    # 2 · 10³ operations at 50 a second; 3 · 100 numbers of 4 bytes at 10 a second.
    assert product_seconds(Product(10, 10, 10, "float32"), machine) == 120.0
    # 2 · 100³ at 50 are more than 4 · 3 · 100² bytes at 10.
    assert product_seconds(Product(100, 100, 100, "float32"), machine) == 40_000.0


def test_products_in_tiles_take_what_was_measured_on_an_h100() -> None:
    """Rates of 49 products from 11 to 783 TFLOP/s: OpenXLA's table,
    xla/service/gpu/model/matmul_interpolator_data.h (2025, sm_90, bfloat16). Each was measured
    alone, with what the host takes to launch it: about 5 µs."""
    h100 = replace(load_machine("h100"), sustained=1.0, kernel_seconds=5e-6)
    errors = []
    with (Path(__file__).with_name("products_h100.csv")).open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sides = (int(row[side]) for side in ("rows", "inner", "columns"))
            product = Product(*sides, "bfloat16", int(row["count"]))
            flops = 2.0 * product.count * product.rows * product.inner * product.columns
            errors.append(
                flops / product_seconds(product, h100) / (float(row["tflops"]) * 1e12) - 1
            )
    assert len(errors) == 49
    assert sum(map(abs, errors)) / len(errors) < 0.05
    assert max(map(abs, errors)) < 0.17


def test_a_tile_more_than_there_are_processors_begins_another_round(machine: Machine) -> None:
    # Tiles of 128 × 256 on 4 processors of 12.5 FLOP/s; each is begun as long as it computes.
    alone = 2 * 128 * 256 * 1e6 / 12.5
    tiled = replace(machine, processors=4, memory_bandwidth=1e18, tile_seconds=alone)
    four = product_seconds(Product(128 * 4, 1_000_000, 256, "float32"), tiled)
    assert four == pytest.approx(2 * alone)
    # Five would take between 1¼ and 2 rounds; ten of half the size take between 2½ and 3.
    five = product_seconds(Product(128 * 5, 1_000_000, 256, "float32"), tiled)
    assert five == pytest.approx(2.75 * (0.5 / 0.95 + 0.5) * alone)


def test_attention_is_two_products_forward_and_five_back(machine: Machine) -> None:
    whole = AttentionProduct(1, 2, 2, 5, 5, 10, "float32", is_causal=False)
    assert attention_seconds(whole, machine) == 2 * 2 * 2 * 25 * 10 / 50
    back = replace(whole, is_causal=True, is_backward=True)
    assert attention_seconds(back, machine) == 5 * 2 * 2 * 25 * 10 / 2 / 25


@pytest.mark.parametrize(
    ("kind", "ranks", "seconds"),
    [
        ("all-reduce", 4, 2 * 3 / 4 * 80 / 4),
        ("all-gather", 4, 3 / 4 * 80 / 4),
        ("reduce-scatter", 4, 3 / 4 * 80 / 4),
        ("broadcast", 4, 80 / 4),
        ("all-reduce", 1, 0.0),
        # Two nodes, where each of four ranks has a link of its own: 4 bytes/s.
        ("all-reduce", 8, 2 * 7 / 8 * 80 / 4),
        # Of what a rank sends, half goes to the other node, by its own link.
        ("all-to-all", 8, 4 / 8 * 80 / 1),
    ],
)
def test_collectives(machine: Machine, kind: str, ranks: int, seconds: float) -> None:
    message = Message(kind, 80, "sharding", ranks)  # type: ignore[arg-type]
    assert message_seconds(message, Span(ranks, min(ranks, 4)), machine) == seconds


def test_a_group_of_one_rank_a_node_has_one_link(machine: Machine) -> None:
    message = Message("all-reduce", 80, "data", 4)
    assert message_seconds(message, Span(4, 1), machine) == 2 * 3 / 4 * 80 / 1


def test_latency_is_that_of_a_tree_or_a_ring(machine: Machine) -> None:
    slow = replace(machine, node_step_seconds=1.0, network_step_seconds=10.0)
    # 16 ranks on 4 nodes, nothing to send. A tree: 2 · (3 · 1 + 2 · 10).
    assert message_seconds(Message("all-reduce", 0, "data", 16), Span(16, 4), slow) == 46.0
    # A ring: 12 steps within nodes and 3 between.
    assert message_seconds(Message("all-gather", 0, "data", 16), Span(16, 4), slow) == 42.0


def test_spans_follow_the_order_of_ranks() -> None:
    degrees = Degrees(2, 2, 4, 2, 1, 1, 1)
    first = spans_of(degrees, "pp_first", 8)
    assert first["tensor"] == Span(4, 4)
    assert first["sharding"] == Span(2, 2)
    assert first["pipeline"] == Span(2, 1)
    assert first["data"] == Span(2, 1)
    assert first["world"] == Span(32, 8)
    other = spans_of(degrees, "sharding_first", 8)
    assert other["pipeline"] == Span(2, 2)
    assert other["sharding"] == Span(2, 1)


def seconds(events: list[Event], machine: Machine) -> dict[str, float]:
    spans = spans_of(Degrees(1, 4, 1, 1, 1, 1, 1), "pp_first", 4)
    found = list(sections(timeline(events, machine), spans, machine))
    assert len(found) == 1
    return dict(found[0].seconds)


def test_a_message_goes_on_beside_what_follows_until_it_is_waited_for(machine: Machine) -> None:
    message = Message("all-gather", 80, "sharding", 4, number=1)  # 15 s
    work = Traffic("copy", 100)  # 10 s
    begin = Mark("forward", 0)
    assert seconds([begin, message, work, Wait(1)], machine) == {"memory": 10.0, "sharding": 5.0}
    assert seconds([begin, message, work, work, Wait(1)], machine) == {"memory": 20.0}
    at_once = replace(message, number=None)
    assert seconds([begin, at_once, work], machine) == {"memory": 10.0, "sharding": 15.0}
    # Of one axis the second begins when the first has ended.
    second = replace(message, number=2)
    assert seconds([begin, message, second, work, Wait(2)], machine)["sharding"] == 20.0


def test_what_is_computed_again_belongs_to_its_pass(machine: Machine) -> None:
    events: list[Event] = [
        Mark("backward", 0, 0),
        Mark("recompute", 0, 0, 1),
        Traffic("copy", 100),
        Mark("backward", 0, 0, 1),
        Traffic("copy", 50),
    ]
    assert seconds(events, machine) == {"memory": 15.0}


def stage(forward: float, backward: float, chunks: int = 1, once: float = 0.0) -> StageTime:
    found = StageTime()
    for chunk in range(chunks):
        found.forward[chunk] = [defaultdict(float, products=forward / chunks)]
        found.backward[chunk] = [defaultdict(float, products=backward / chunks)]
    found.once["memory"] = once
    return found


@pytest.mark.parametrize(("chunks", "bubble"), [(1, 3 * 3.0), (2, 3 * 3.0 / 2)])
def test_the_bubble_is_what_the_schedule_leaves(chunks: int, bubble: float) -> None:
    step = step_time([stage(1.0, 2.0, chunks, once=5.0)] * 4, chunks, 8, 0.0)
    assert step.total == pytest.approx(8 * 3.0 + bubble + 5.0)
    assert step.seconds["bubble"] == pytest.approx(bubble)


def test_the_slowest_stage_decides() -> None:
    step = step_time([stage(1.0, 2.0), stage(2.0, 4.0)], 1, 4, 0.0)
    assert step.stage == 1
    # The second waits for one forward pass, and the first for its last backward pass.
    assert step.total == pytest.approx(1.0 + 4 * 6.0 + 2.0)


def test_messages_lengthen_the_way_through_the_stages() -> None:
    # Two micro-batches: the second stage begins after a forward pass and a message, and what it
    # ends with goes back; with one micro-batch nothing hides that.
    assert max(play([stage(1.0, 2.0)] * 2, 1, 1, 0.5)) == 1.0 + 0.5 + 3.0 + 0.5 + 2.0


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("micro_batches", [16, 24, 40])
def test_a_long_step_need_not_be_played_whole(chunks: int, micro_batches: int) -> None:
    stages = [stage(1.0, 2.0, chunks), stage(1.5, 2.0, chunks), stage(1.0, 2.5, chunks)]
    stages.append(stage(1.25, 2.0, chunks))
    shortened = ends_of(stages, chunks, micro_batches, 0.1)
    assert shortened == pytest.approx(play(stages, chunks, micro_batches, 0.1))


def test_the_last_of_several_steps_counts(machine: Machine) -> None:
    work = Traffic("copy", 10)
    events: list[Event] = [
        Mark("forward", 0), work, work, Mark("update"), work,
        Mark("forward", 0), work, Mark("update"), work, work,
    ]  # fmt: skip
    spans = spans_of(Degrees(1, 1, 1, 1, 1, 1, 1), "pp_first", 4)
    found = stage_time(list(sections(timeline(events, machine), spans, machine)))
    assert [dict(each) for each in found.forward[0]] == [{"memory": 1.0}]
    assert dict(found.once) == {"memory": 2.0}
