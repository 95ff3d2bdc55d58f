"""The documentation's site: built, every link followed, every page opened."""

import html.parser
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
FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--enable-logging=stderr",
  "--allow-file-access-from-files",  # else a page cannot look into a frame
  "--host-resolver-rules=MAP * ~NOTFOUND",  # there is no network
]
PHONE = 390  # pixels
# Opens every page in a frame as wide as a phone; what it finds goes to the console.
VISITOR = """<!doctype html><iframe width=%d height=800></iframe><script>
const frame = document.querySelector("iframe");
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
  return {
    title: page.querySelector("h1")?.innerText,
    text: page.querySelector("article")?.innerText.length,
    missing: images.filter(image => !image.naturalWidth).map(image => image.src),
    width: page.documentElement.scrollWidth,
    resources: entries.map(entry => entry.name),
  };
}
(async () => {
  for (const url of %s) {
    const found = await visit(url);
    console.log("visited " + JSON.stringify([url, found]));
  }
  console.log("visited all");
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


@pytest.fixture(scope="module")
def browser():
  found = next(filter(None, map(shutil.which, BROWSERS)), None)
  if not found:
    pytest.skip("There is no Chromium to open the pages in: apt install chromium.")
  return [found, *FLAGS]


@pytest.fixture(scope="module")
def visited(browser, site, pages, tmp_path_factory):
  """What Chromium finds on every page, by its address; and what it complains of.

  The pages are opened from the disk, as no server is needed to read them. One page that
  shows a file's source stands for all of these.
  """
  addresses = sorted(str(path.relative_to(site)) for path in pages)
  sources = [address for address in addresses if address.startswith("source/")]
  addresses = [x for x in addresses if x not in sources[1:]]
  visitor = site / "visitor.html"
  visitor.write_text(VISITOR % (PHONE, json.dumps(addresses)), encoding="utf-8")
  profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
  command = [*browser, profile, "--remote-debugging-port=0", visitor.as_uri()]
  report, complaints = {}, []
  with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
    limit = threading.Timer(240, process.kill)
    limit.start()
    for line in process.stderr:
      if said := re.search(r'CONSOLE:\d+\] "(.*)", source: ', line):
        if said[1] == "visited all":
          break
        if said[1].startswith("visited "):
          address, found = json.loads(said[1].removeprefix("visited "))
          report[address] = found
        else:
          complaints.append(said[1])
    limit.cancel()
    process.terminate()
  visitor.unlink()
  assert list(report) == addresses, "Chromium did not get through all pages."
  return report, complaints


def test_every_page_loads(visited):
  report, complaints = visited
  assert not complaints
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
  loaded = {name for page in report.values() for name in page["resources"]}
  assert not [name for name in loaded if name.startswith("http")]


def test_search_needs_no_server(browser, site, tmp_path):
  address = f"{(site / 'index.html').as_uri()}?q=LSTM"
  dump = ["--virtual-time-budget=20000", "--dump-dom"]
  command = [*browser, f"--user-data-dir={tmp_path}", *dump, address]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  count = re.search(r"(\d+) matching documents", done.stdout)
  assert count and int(count[1]) > 5
  assert "CONSOLE" not in done.stderr, done.stderr
