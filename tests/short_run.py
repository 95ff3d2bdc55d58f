"""A training of a second, and what it leaves."""

import numpy as np
import processes
import tensorflow as tf

NUM_EPOCHS, PERIOD = 60, 3
TINY = [
  "--problem=quadratic", f"--num_epochs={NUM_EPOCHS}", f"--evaluation_period={PERIOD}",
  "--evaluation_epochs=1", "--num_steps=4", "--unroll_length=2", "--layers=24",
]  # fmt: skip
# Without pictures, whose 30 kB are written by the clock.
UNPICTURED = f"""
from l2l_tf.runs import training
training._PICTURE_PERIOD = float("inf")
{processes.COMMAND.format("train")}
"""
# A linear optimizer, which is traced and compiled in half the time of an LSTM.
LINEAR = [*TINY, "--layers="]
# What the run of an LSTM writes: up to its first checkpoint, logs of about 6 kB, an
# export of 12 kB and the checkpoint of 34 kB; to its end, logs of 70 kB.
IN_EXPORT, IN_CHECKPOINT, IN_LOGS = 9_500, 22_000, 35_000


def result(path, num_epochs=NUM_EPOCHS):
  """The exported file and the last checkpoint, bit for bit."""
  with np.load(path / "optimizer.l2l.npz") as arrays:
    exported = {k: (v.dtype, v.shape, v.tobytes()) for k, v in arrays.items()}
  reader = tf.train.load_checkpoint(str(path / "checkpoints" / f"ckpt-{num_epochs}"))
  names = set(reader.get_variable_to_shape_map())
  counter = {n for n in names if n.startswith("save_counter")}  # of saves, not epochs
  assert len(names) > 10 and len(counter) == 1
  last = {n: reader.get_tensor(n) for n in names - counter}
  return exported, {k: getattr(v, "tobytes", lambda v=v: v)() for k, v in last.items()}


def latest(path):
  """Number of the last checkpoint."""
  found = (path / "checkpoints").glob("ckpt-*.index")
  return max((int(p.stem.split("-")[1]) for p in found), default=0)
