"""The soak's judgement sees a leak of any kind through noise, and takes nothing else for one."""

from __future__ import annotations

import random

import pytest

from tests.soak.soak import ALLOWED, MIB
from tests.soak.trend import growth

BYTES = ALLOWED["server_bytes"]


def samples(start: float, per_sample: float, noise: float, seed: int, count: int = 100) -> list[float]:
    chance = random.Random(seed)
    return [start + per_sample * number + chance.uniform(-noise, noise) for number in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_a_steady_leak_is_seen_through_noise_of_its_own_size(seed: int) -> None:
    # Over three quarters of a hundred samples this is a fifth more than is allowed.
    leaking = samples(100 * MIB, BYTES * 1.25 / 75, BYTES / 4, seed)
    assert growth(leaking).is_more_than(BYTES)


@pytest.mark.parametrize("seed", range(20))
def test_noise_without_a_slope_is_none(seed: int) -> None:
    assert not growth(samples(100 * MIB, 0, BYTES, seed)).is_more_than(BYTES)


def test_what_warms_up_in_the_first_quarter_is_none() -> None:
    warming = [100 * MIB + min(number, 25) * 4 * MIB for number in range(100)]
    assert not growth(warming).is_more_than(BYTES)


@pytest.mark.parametrize("at", range(20, 100, 3))
def test_a_single_step_is_none_wherever_it_comes(at: int) -> None:
    stepping = [float(100 * MIB + (3 * BYTES if number >= at else 0)) for number in range(100)]
    assert not growth(stepping).is_more_than(BYTES)


@pytest.mark.parametrize("period", [7, 13, 30])
def test_what_breathes_is_none(period: int) -> None:
    breathing = [100 * MIB + BYTES * 2.0 * (number % period) / period for number in range(100)]
    assert not growth(breathing).is_more_than(BYTES)


def test_one_descriptor_in_every_tenth_sample_is_a_leak() -> None:
    assert growth([15.0 + number // 10 for number in range(100)]).is_more_than(ALLOWED["server_descriptors"])


def test_too_few_samples_are_no_judgement() -> None:
    with pytest.raises(ValueError, match="tell nothing"):
        growth([1.0] * 7)
