"""On which data a problem draws, in a few words.

An expression such as "cifar10_conv()" is the same wherever it is read, the data of a
machine need not be.
"""

import zlib

import numpy as np

from l2l_tf.problems.base import Problem


def fingerprint(problem: Problem) -> str:
  """Returns the counts and the checksums of a problem's data; "" if it has none.

  >>> from l2l_tf.problems.fingerprint import fingerprint
  >>> fingerprint(Quadratic())
  ''
  >>> fingerprint(MLP(problems.as_dataset([[0.5]], [0], [[1.0]], [0])))
  '1 train (fcb58ffd), 1 held-out (a0486209)'
  """
  found = [_described(name, arrays) for name, arrays in problem.data_sources()]
  return ", ".join(dict.fromkeys(found))  # An ensemble's members share theirs.


def differ(where: str, found: str, given: str) -> str:
  """Returns the sentence on results of other data than those that are now there.

  Args:
    where: the file or the directory that holds them.
    found: the fingerprint of their data.
    given: that of the data now.
  """
  return (
    f"{where!r} holds results on other data, {found or 'none'}, than those that are"
    f" there now, {given or 'none'}; set TFDS_DATA_DIR and L2L_PHOTOS as they were"
    " then, or give another --save_path."
  )


def _described(name: str, arrays) -> str:
  checksum = 0
  for array in map(np.asarray, arrays):
    about = f"{array.dtype.name} {array.shape}".encode()
    checksum = zlib.crc32(_bytes(array), zlib.crc32(about, checksum))
  return f"{len(arrays[0])} {name} ({checksum:08x})"


def _bytes(array: np.ndarray) -> bytes | np.ndarray:
  if array.dtype.hasobject:  # of strings, each somewhere in memory
    return repr(array.tolist()).encode()
  return np.ravel(array).view(np.uint8)
