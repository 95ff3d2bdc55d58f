"""`python -m l2l_tf` is the command l2l."""

from l2l_tf.scripts.main import run

if __name__ == "__main__":
  run()
