"""Fixtures of several test files."""

import functools

import keras_models
import pytest


@pytest.fixture(params=[True, False], ids=["input", "no_input"])
def sequential(request):
  """Returns what builds a model of two layers, with an `Input` and without one."""
  return functools.partial(keras_models.sequential, request.param)
