"""Polling until something is there or the time is up."""

from __future__ import annotations

import time

from prefect_linkerd.mesh.kubernetes.waiting import polls


def test_there_is_one_poll_after_the_time_is_over() -> None:
    begun = time.monotonic()
    found = list(polls(0.05, every=0.02))
    assert found[-1]
    assert not any(found[:-1])
    assert time.monotonic() - begun >= 0.05


def test_there_is_always_a_poll() -> None:
    assert list(polls(0, every=9)) == [True]
