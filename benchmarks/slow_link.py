"""Two network namespaces with a link between them that delays what it carries.

The two ends are TUN devices, whose packets this module hands on. That is what
`tc qdisc add dev ... root netem delay ...` does at each end of a veth pair, on kernels
without netem too: each namespace has a TCP of its own, and packets of Ethernet's size.
It needs root, `ip` of iproute2, and /dev/net/tun.
"""

import collections
import contextlib
import fcntl
import os
import select
import struct
import subprocess
import threading
import time

import in_worker

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MTU = 1500
DEVICE = "slow0"


class SlowLink:
  """The link; a context manager, which removes the namespaces at its end.

  Attributes:
    namespaces: names of the two.
    addresses: one in each.
    round_trip: seconds that are added to it, half of them in each direction; it can be
      changed at any time.
  """

  def __init__(self):
    stem = f"l2l{os.getpid()}"
    self.namespaces = f"{stem}a", f"{stem}b"
    self.addresses = "10.213.0.1", "10.213.0.2"
    self.round_trip = 0.0
    self._is_over = threading.Event()
    self._thread = threading.Thread(target=self._carry, daemon=True)

  def __enter__(self) -> "SlowLink":
    with contextlib.ExitStack() as stack:
      for name in self.namespaces:
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "del", name)
      self._ends = [_open(name) for name in self.namespaces]
      for name, address in zip(self.namespaces, self.addresses, strict=True):
        _ip("-n", name, "address", "add", f"{address}/24", "dev", DEVICE)
        _ip("-n", name, "link", "set", DEVICE, "mtu", str(_MTU), "up")
        _ip("-n", name, "link", "set", "lo", "up")
      self._thread.start()
      self._cleanup = stack.pop_all()
    return self

  def __exit__(self, *unused) -> None:
    self._is_over.set()
    self._thread.join()
    for end in self._ends:
      os.close(end)
    self._cleanup.close()

  def _carry(self) -> None:
    """Hands packets on when they are due; those of one direction keep their order."""
    waiting = collections.deque()  # of (due, to which end, packet)
    while not self._is_over.is_set():
      rest = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
      readable, _, _ = select.select(self._ends, [], [], min(rest, 0.1))
      now = time.monotonic()
      for end in readable:
        other = self._ends[1 - self._ends.index(end)]
        with contextlib.suppress(BlockingIOError):
          while True:
            waiting.append((now + self.round_trip / 2, other, os.read(end, 65536)))
      while waiting and waiting[0][0] <= time.monotonic():
        _, other, packet = waiting.popleft()
        with contextlib.suppress(OSError):  # as a full queue does, TCP sends it again
          os.write(other, packet)


def _open(namespace: str) -> int:
  """Returns the descriptor of a new TUN device in a namespace."""
  opened = []

  def open_there():  # A thread can be in another namespace than its process.
    in_worker.enter(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = struct.pack("16sH", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(device, _TUNSETIFF, flags)
    opened.append(device)

  thread = threading.Thread(target=open_there)
  thread.start()
  thread.join()
  return opened[0]


def _ip(*args: str) -> None:
  try:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)
  except FileNotFoundError:
    raise SystemExit("There is no program ip; install iproute2.") from None
  except subprocess.CalledProcessError as e:
    raise SystemExit(
      f"ip {' '.join(args)} failed ({e.stderr.strip()}); a delayed link needs root."
    ) from None
