"""Starts the workers of a cluster on this machine: one command, several processes.

  l2l-launch --workers=2 -- l2l-train --problem=quadratic

Each worker is a process of the command that follows --, with the variable TF_CONFIG in
its environment: it names the cluster, on ports of localhost, and the worker's number in
it. Worker 0 is the chief. Any program that reads TF_CONFIG can be started, such as one
with tf.distribute.MultiWorkerMirroredStrategy. On several machines, set TF_CONFIG on
each and start the command itself.

Worker 0 writes to the terminal as if it were alone, so that its progress bar stays one.
Every other line begins with the number of the worker that wrote it, as in "[1] ...";
of a line that was rewritten, as progress bars do, the last state is shown, once it is
complete. If the output goes to a file or a pipe, worker 0's lines have a number too.

If a worker fails, the others are ended: by SIGTERM, and after --grace seconds by
SIGKILL. One sentence says which failed and how, and l2l-launch exits with that worker's
exit code, or 128 + n after signal n. If all workers exit with 0, so does it.
Ctrl-C and SIGTERM are handed on to all workers, and a second time end them at once. No
worker outlives l2l-launch, nor does what it has started, not even if l2l-launch is
killed itself.

The workers share the cores of this process equally. They do not share its GPUs: each
sees all that CUDA_VISIBLE_DEVICES names. They read nothing from the terminal.
"""

from absl import flags

from l2l_tf.runs import local_workers
from l2l_tf.runs.settings import LaunchSettings
from l2l_tf.scripts import launch

flags.DEFINE_integer(
  "workers", None, "How many processes to start.", lower_bound=1, required=True
)
flags.DEFINE_integer(
  "port",
  None,
  "Port of worker 0; worker 1 has the next one, and so on. By default free ports are"
  " chosen.",
  lower_bound=1,
  upper_bound=65535,
)
flags.DEFINE_bool(
  "pin",
  None,
  "Whether each worker gets cores of its own, an equal share of those that this process"
  " may use; by default so if there are at least as many cores as workers. Else every"
  " worker may use all of them.",
)
flags.DEFINE_float(
  "grace",
  15.0,
  "How many seconds workers have to end after another one has failed, before they are"
  " killed.",
)

launch.positive_number("grace")


def main(command: list[str]) -> int:
  return local_workers.launch(command, launch.settings(LaunchSettings, __name__))


def run() -> None:
  """The console command."""
  launch.run(main, __name__, takes_command=True)
