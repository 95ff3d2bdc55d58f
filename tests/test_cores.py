"""How work is split."""

import os

import pytest

from l2l_tf import cores


def test_work_is_split_into_even_parts(monkeypatch):
  monkeypatch.setattr(cores, "num_shards", lambda: 3)
  assert list(cores.shards(10, 10)) == [(0, 3), (3, 6), (6, 10)]


@pytest.mark.parametrize("size, most, count", [(10, 2, 2), (1, 9, 1), (9, 0, 1)])
def test_there_are_no_more_parts_than_asked_for(monkeypatch, size, most, count):
  monkeypatch.setattr(cores, "num_shards", lambda: 3)
  parts = list(cores.shards(size, most))
  assert len(parts) == count and parts[0][0] == 0 and parts[-1][1] == size


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_only_cores_that_the_process_may_use_count(monkeypatch):
  monkeypatch.setattr(cores, "on_gpu", lambda: False)
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
  assert cores.num_shards() == 1
  monkeypatch.setattr(cores, "on_gpu", lambda: True)
  assert cores.num_shards() == 1


def test_a_share_of_a_share(monkeypatch):
  monkeypatch.setattr(cores, "on_gpu", lambda: False)
  monkeypatch.setattr(cores, "available", lambda: 8)
  with cores.shared_by(2):
    assert cores.num_shards() == 4
    with cores.shared_by(3):
      assert cores.num_shards() == 1
    assert cores.num_shards() == 4
  assert cores.num_shards() == 8
