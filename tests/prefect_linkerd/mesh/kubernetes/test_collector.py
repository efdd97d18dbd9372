"""The garbage collector is paused while a cluster is read, and resumes afterwards."""

from __future__ import annotations

import gc

import pytest

from prefect_linkerd.mesh.kubernetes.collector import paused_collector


def test_it_works_again_after_the_last_reader() -> None:
    assert gc.isenabled()
    with paused_collector():
        assert not gc.isenabled()
        with pytest.raises(ValueError, match="broken"), paused_collector():
            raise ValueError("broken")
        assert not gc.isenabled()
    assert gc.isenabled()


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
