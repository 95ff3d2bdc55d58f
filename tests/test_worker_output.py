"""The lines of several workers on one terminal."""

import os

import pytest

from l2l_tf.runs.worker_output import NumberedLines


def shown(path, pieces, is_closed=True):
  """What is copied of pieces that a worker writes one after another."""
  reader, writer = os.pipe()
  with open(reader, "rb") as source, open(path / "shown", "w") as target:
    lines = NumberedLines(source, target, number=3)
    for piece in pieces:
      os.write(writer, piece.encode())
      assert lines.copy()
    if is_closed:
      os.close(writer)
      assert not lines.copy()
    lines.finish()
    lines.finish()
  if not is_closed:
    os.close(writer)
  return (path / "shown").read_bytes().decode().splitlines(keepends=True)


WRITTEN = [
  ("a\nb", ["a", "b"]),
  ("a\r\n\r\nb\n", ["a", "", "b"]),
  ("\r 1%\r50%", ["50%"]),
  ("\r50%\r 100%\n", [" 100%"]),
  ("\r50%\r    \rdone\n", ["done"]),
  ("\r50%\r    \r", ["50%"]),
  ("\r  1%\r  2%\nend\n", ["  2%", "end"]),
  ("é\n", ["é"]),
  ("", []),
]
SPLIT = {"at once": lambda text: [text] if text else [], "in pieces": list}


@pytest.mark.parametrize("split", SPLIT.values(), ids=SPLIT)
@pytest.mark.parametrize("text, lines", WRITTEN, ids=[repr(w[0]) for w in WRITTEN])
def test_lines_are_numbered_and_rewritten_ones_shown_as_they_were_left(
  tmp_path, split, text, lines
):
  assert shown(tmp_path, split(text)) == [f"[3] {line}\n" for line in lines]


def test_what_was_written_is_shown_though_the_pipe_stays_open(tmp_path):
  assert shown(tmp_path, ["a\n", "b"], is_closed=False) == ["[3] a\n", "[3] b\n"]
