"""What is hidden of a step's communication doesn't fall below what docs/communication.md states."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulated_device.hidden_communication import (
    FORMS,
    HEAD,
    HEAD_IN_CHINESE,
    LAYOUTS,
    ON_AN_ACCELERATOR,
    PAGE,
    PAGE_IN_CHINESE,
    Operation,
    Share,
    measure,
    share_hidden,
    stated,
)

COMPUTING, COMMUNICATING = 0, 1


def product(number: int, *, after: int = 0) -> Operation:
    """A product that comes after `after` collectives."""
    return Operation("kernel", "matmul", COMPUTING, 8, (number, after))


def collective(number: int, size: int, *, after: int = 0) -> Operation:
    """A collective that comes after `after` products."""
    return Operation("communication", "all_reduce", COMMUNICATING, size, (after, number))


def hidden(*operations: Operation) -> Share:
    return share_hidden(list(operations), list(operations))


def test_what_is_waited_for_at_once_is_not_hidden() -> None:
    assert hidden(product(1), collective(1, 10, after=1), product(2, after=1)) == Share(0, 10)


def test_a_product_between_begin_and_wait_hides() -> None:
    begun = (product(1), collective(1, 10, after=1))
    assert hidden(*begun, product(2), product(3, after=1)) == Share(10, 10)


def test_other_kernels_do_not_hide() -> None:
    other = Operation("kernel", "add", COMPUTING, 8, (2, 0))
    assert hidden(product(1), collective(1, 10, after=1), other) == Share(0, 10)


def test_a_product_hides_one_collective() -> None:
    begun = (product(1), collective(1, 10, after=1), collective(2, 30, after=1))
    assert hidden(*begun, product(2), product(3, after=2)) == Share(10, 40)
    assert hidden(*begun, product(2), product(3), product(4, after=2)) == Share(40, 40)


def test_who_is_waited_for_first_chooses_first() -> None:
    begun = (collective(1, 10, after=0), collective(2, 30, after=1))
    assert hidden(*begun, product(1), product(2, after=0), product(3, after=2)) == Share(40, 40)
    early = (product(2, after=0), product(3, after=1))
    assert hidden(collective(2, 30, after=1), collective(1, 10, after=1), *early) == Share(40, 40)


def test_the_page_states_every_layout() -> None:
    assert PAGE.read_text(encoding="utf-8").startswith(HEAD)
    assert PAGE_IN_CHINESE.read_text(encoding="utf-8").startswith(HEAD_IN_CHINESE)
    for form in FORMS:
        assert list(stated(form)) == list(LAYOUTS)


def hides_as_stated(folder: Path, layouts: list[str], forms: tuple[str, ...]) -> None:
    numbers = []
    for form in forms:
        shares, metrics = measure(folder, form, layouts)
        numbers.append(metrics)
        for layout, share in shares.items():
            assert share.percent >= stated(form)[layout], f"{layout}, {form}"
    assert all(found == numbers[0] for found in numbers), "to the last bit"


@pytest.mark.usefixtures("device_environment")
def test_tensor_parallel_and_sharding(tmp_path: Path) -> None:
    hides_as_stated(tmp_path, ["tp2, sequence parallel", "sd2, stage 2"], (ON_AN_ACCELERATOR,))


@pytest.mark.slow
@pytest.mark.usefixtures("device_environment")
def test_all_layouts(tmp_path: Path) -> None:
    hides_as_stated(tmp_path, list(LAYOUTS), FORMS)
