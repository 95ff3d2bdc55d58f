"""The documentation's site: built, every link followed, every page opened."""

import collections
import functools
import html.parser
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse

import pytest

pytest.importorskip("mkdocs", reason="The site needs MkDocs: pip install -e '.[docs]'.")
ROOT = pathlib.Path(__file__).parents[1]
BROWSERS = "chromium", "chromium-browser", "google-chrome"
PHONE = 390  # pixels
# Opens every page in a frame as wide as a phone, and writes down what it finds there.
VISITOR = """<!doctype html><iframe width=%d height=800></iframe><script>
const frame = document.querySelector("iframe"), found = {};
const wait = ms => new Promise(done => setTimeout(done, ms));
async function visit(url) {
  const loaded = new Promise(done => frame.onload = done);
  frame.src = url;
  await loaded;
  const page = frame.contentDocument, images = [...page.images];
  images.forEach(image => image.loading = "eager");
  await Promise.all(images.map(image => image.decode().catch(() => 0)));
  await wait(20);
  const entries = frame.contentWindow.performance.getEntriesByType("resource");
  found[url] = {
    title: page.querySelector("h1")?.innerText,
    text: page.querySelector("article")?.innerText.length,
    missing: images.filter(image => !image.naturalWidth).map(image => image.src),
    width: page.documentElement.scrollWidth,
    resources: entries.map(entry => entry.name),
  };
}
(async () => {
  for (const url of %s) await visit(url);
  const text = document.createElement("pre");
  text.textContent = JSON.stringify(found);
  document.body.replaceChildren(text);
  await fetch("/done", {method: "POST", body: text.textContent});
})();
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """The directory of the site, built as `make docs` builds it."""
  path = tmp_path_factory.mktemp("site")
  command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", path]
  quiet = {"NO_MKDOCS_2_WARNING": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
  done = subprocess.run(
    command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return path


class Page(html.parser.HTMLParser):
  """What a page links to, and where it can be linked to."""

  def __init__(self, path):
    super().__init__()
    self.links, self.anchors, self.pictures = set(), set(), []
    self.feed(path.read_text(encoding="utf-8"))

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.anchors |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
    self.links |= {attrs[k] for k in ("href", "src") if attrs.get(k)}
    if tag == "img":
      self.pictures.append(attrs)


@pytest.fixture(scope="module")
def pages(site):
  found = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
  assert len(found) > 30
  return found


def test_every_link_leads_somewhere(site, pages):
  broken = []
  for path, page in pages.items():
    for link in page.links:
      target, _, anchor = urllib.parse.unquote(link).partition("#")
      if re.match(r"\w+:", target):
        continue
      where = (path.parent / target.partition("?")[0]).resolve() if target else path
      anchors = pages[where].anchors if where in pages else {anchor}
      if not where.exists() or (anchor and anchor not in anchors):
        broken.append((str(path.relative_to(site)), link))
  assert not broken


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_of_a_file_in_the_repository_leads_somewhere(name):
  text = (ROOT / name).read_text(encoding="utf-8")
  links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", text)
  assert not [link for link in links if not (ROOT / link).exists()]


def test_no_page_takes_anything_from_a_network(site, pages):
  loads = re.compile(
    r'(?:src=|<link[^>]*rel="?(?:stylesheet|preconnect)[^>]*href=)"?http'
  )
  assert not [p for p in pages if loads.search(p.read_text(encoding="utf-8"))]
  styles = [p.read_text(encoding="utf-8") for p in site.rglob("*.css")]
  assert styles and not [x for x in styles if "url(http" in x]


def test_every_picture_says_what_it_shows(pages):
  pictures = [picture for page in pages.values() for picture in page.pictures]
  assert len(pictures) > 10 and all(picture.get("alt") for picture in pictures)


def test_docstrings_and_cards_are_on_the_pages(site):
  text = lambda name: (site / "reference" / name).read_text(encoding="utf-8")
  assert "LearnedOptimizer" in text("keras.html")
  assert text("optimizers.html").count("&gt;&gt;&gt;") > 10
  assert "no worse than tuned Adam" in text("cards.html")


class Server(http.server.ThreadingHTTPServer):
  """Serves a directory on this machine, and remembers what it was asked in vain."""

  def __init__(self, directory):
    self.failed, self.report, self.done = [], None, threading.Event()
    super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=directory))


class Handler(http.server.SimpleHTTPRequestHandler):
  def send_error(self, code, *args, **kwargs):
    self.server.failed.append(self.path)
    super().send_error(code, *args, **kwargs)

  def do_POST(self):
    size = int(self.headers["Content-Length"])
    self.server.report = json.loads(self.rfile.read(size))
    self.send_response(200)
    self.end_headers()
    self.server.done.set()

  def log_message(self, *args):
    pass


@pytest.fixture(scope="module")
def visited(site, pages, tmp_path_factory):
  """What Chromium finds on every page, by its address; and the failed requests."""
  browser = next(filter(None, map(shutil.which, BROWSERS)), None)
  if not browser:
    pytest.skip("There is no Chromium to open the pages in: apt install chromium.")
  addresses = [f"/{path.relative_to(site)}" for path in pages]
  visitor = VISITOR % (PHONE, json.dumps(addresses))
  (site / "visitor.html").write_text(visitor, encoding="utf-8")
  with Server(site) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/visitor.html"
    profile = tmp_path_factory.mktemp("profile")
    flags = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      f"--user-data-dir={profile}",
    ]
    command = [browser, *flags, "--remote-debugging-port=0", address]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
      try:
        assert server.done.wait(240), "Chromium did not get through all pages."
      finally:
        process.terminate()
    server.shutdown()
  (site / "visitor.html").unlink()
  return server.report, [p for p in server.failed if p != "/favicon.ico"]


def test_every_page_loads(visited):
  report, failed = visited
  assert not failed
  empty = [url for url, page in report.items() if not page["title"] or not page["text"]]
  assert not empty


def test_no_page_misses_a_picture(visited):
  report, _ = visited
  assert not {url: x["missing"] for url, x in report.items() if x["missing"]}


def test_every_page_fits_a_phone(visited):
  report, _ = visited
  assert not {url: x["width"] for url, x in report.items() if x["width"] > PHONE}


def test_what_pages_load_is_on_this_machine(visited):
  report, _ = visited
  hosts = collections.Counter(
    urllib.parse.urlsplit(name).hostname
    for page in report.values()
    for name in page["resources"]
  )
  assert set(hosts) == {"127.0.0.1"}
