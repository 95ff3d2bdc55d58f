"""Makes links of the documentation that leave `docs/` point to pages of the site.

On a code host such a link opens a file of the repository. On the site it opens a page
that shows that file.
"""

import pathlib
import posixpath
import re

import notebook_pages  # beside this file
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
# Files at the root of the repository that are pages of the site.
PAGES = {
  "README.md": "index.md",
  "CHANGELOG.md": "reference/changelog.md",
  "CONTRIBUTING.md": "research/contributing.md",
  "benchmarks/README.md": "results/benchmarks.md",
  "notebooks/the_paper.ipynb": "learn/notebook.md",
  "notebooks/train_your_own.ipynb": "research/notebook.md",
  "notebooks/use_in_keras.ipynb": "use/notebook.md",
}
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".slurm": "bash"}


def on_files(files, config):
  """Adds the pages of the root, and a page for each file that a page links to."""
  sources = {
    page.src_uri: f"docs/{page.src_uri}" for page in files.documentation_pages()
  }
  for path, uri in PAGES.items():
    if not files.get_file_from_path(uri):
      files.append(File.generated(config, uri, content=_text(path)))
      sources[uri] = path
  for path in filter(_is_notebook, PAGES):
    for name, png in notebook_pages.pictures(ROOT / path):
      files.append(File.generated(config, f"source/notebooks/{name}", content=png))
  linked = {target for path in sources.values() for target in _targets(path)}
  for path in sorted(linked):
    if not path.startswith("docs/") and path not in PAGES and (ROOT / path).is_file():
      files.append(File.generated(config, _page(path), content=_shown(path)))
  return files


def on_page_markdown(markdown, page, config, files):
  """Rewrites the links of a page."""
  origin = {uri: path for path, uri in PAGES.items() if uri != "index.md"}
  path = origin.get(page.file.src_uri, f"docs/{page.file.src_uri}")
  here = posixpath.dirname(page.file.src_uri)

  def rewritten(match):
    target = posixpath.relpath(_page(_resolved(path, match[1])), here or ".")
    return f"]({target}{match[2] or ''})"

  return _LINK.sub(rewritten, markdown)


def _targets(path: str) -> set[str]:
  return {_resolved(path, match[1]) for match in _LINK.finditer(_text(path))}


def _text(path: str) -> str:
  if _is_notebook(path):
    return notebook_pages.as_markdown(ROOT / path)
  return (ROOT / path).read_text(encoding="utf-8")


def _is_notebook(path: str) -> bool:
  return path.endswith(".ipynb")


def _resolved(path: str, target: str) -> str:
  """Returns the path below the repository that a link on a page means."""
  return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _page(path: str) -> str:
  """Returns the page, or the file of the site, that shows a file."""
  if path.startswith("docs/"):
    return path.removeprefix("docs/")
  if path in PAGES:
    return PAGES[path]
  return f"source/{path}" if path.endswith(".png") else f"source/{path}.md"


def _shown(path: str) -> str | bytes:
  file = ROOT / path
  if file.suffix == ".png":
    return file.read_bytes()
  code = file.read_text(encoding="utf-8")
  language = _LANGUAGES.get(file.suffix, "text")
  header = "---\nsearch:\n  exclude: true\n---\n\n"
  return f"{header}# `{path}`\n\n````{language}\n{code}````\n"
