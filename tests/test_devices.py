"""How work is split."""

import os

import pytest

from l2l_tf import devices


def test_work_is_split_into_even_parts(monkeypatch):
  monkeypatch.setattr(devices, "num_shards", lambda: 3)
  assert list(devices.shards(10, 10)) == [(0, 3), (3, 6), (6, 10)]


@pytest.mark.parametrize("size, most, count", [(10, 2, 2), (1, 9, 1), (9, 0, 1)])
def test_there_are_no_more_parts_than_asked_for(monkeypatch, size, most, count):
  monkeypatch.setattr(devices, "num_shards", lambda: 3)
  parts = list(devices.shards(size, most))
  assert len(parts) == count and parts[0][0] == 0 and parts[-1][1] == size


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_only_cores_that_the_process_may_use_count(monkeypatch):
  monkeypatch.setattr(devices, "on_gpu", lambda: False)
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
  assert devices.num_shards() == 1
  monkeypatch.setattr(devices, "on_gpu", lambda: True)
  assert devices.num_shards() == 1
