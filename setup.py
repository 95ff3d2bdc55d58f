"""Declares the package: ranges here, exact versions in requirements.lock."""

import pathlib
import re

from setuptools import find_packages, setup

_ROOT = pathlib.Path(__file__).parent
_README = _ROOT / "README.md"
_INIT = (_ROOT / "l2l_tf" / "__init__.py").read_text(encoding="utf-8")
_SHTAB = "shtab>=1.13"  # for l2l --completion=bash

setup(
  name="l2l_tf",
  version=re.search(r'^__version__ = "(.+)"', _INIT, re.MULTILINE)[1],
  description="Learned optimizers for TensorFlow 2, Sonnet 2 and Keras 3.",
  long_description=_README.read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  author="The l2l_tf authors",
  keywords="learned optimizers, meta-learning, learning to learn, Keras, Sonnet",
  license="Apache-2.0",
  packages=find_packages(include=["l2l_tf", "l2l_tf.*"]),
  package_data={"l2l_tf": ["py.typed", "pretraining/weights/*"]},
  python_requires=">=3.11",
  install_requires=[
    "absl-py>=2.1",
    "dm-sonnet>=2.0.2,<3",
    "keras>=3.10,<4",
    "importlib_resources>=6.4",  # tensorflow-datasets imports, but does not declare it
    "matplotlib>=3.9",
    "numpy>=1.26",
    "pillow>=10.1",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "tensorboard>=2.20,<3",  # tensorflow no longer brings it
    "tensorflow>=2.21,<2.22",
    "tensorflow-datasets>=4.9.9,<5",
    "tqdm>=4.66",
  ],
  extras_require={
    "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
    "completion": [_SHTAB],
    "test": [
      _SHTAB,
      "build>=1.2",
      "hypothesis>=6.100",
      "pytest>=8.2",
      "pytest-xdist>=3.6",
      "ruff>=0.12",
    ],
    "docs": [
      "latex2mathml>=3.77",
      "mkdocs>=1.6,<2",
      "mkdocs-material>=9.7,<10",
      "mkdocstrings[python]>=1",
    ],
    "notebooks": ["ipykernel>=6.29", "nbclient>=0.10"],
    "bench": ["jax>=0.5", "torch>=2.6"],
  },
  entry_points={
    "console_scripts": [
      "l2l = l2l_tf.scripts.main:run",
      "l2l-train = l2l_tf.scripts.train:run",
      "l2l-pretrain = l2l_tf.scripts.pretrain:run",
      "l2l-evaluate = l2l_tf.scripts.evaluate:run",
      "l2l-benchmark = l2l_tf.scripts.benchmark:run",
      "l2l-diagnose = l2l_tf.scripts.diagnose:run",
      "l2l-reproduce = l2l_tf.scripts.reproduce:run",
      "l2l-fewshot = l2l_tf.scripts.fewshot:run",
      "l2l-launch = l2l_tf.scripts.launch_workers:run",
      "l2l-style = l2l_tf.scripts.style:run",
    ],
  },
  classifiers=[
    "Development Status :: 3 - Alpha",
    "Environment :: Console",
    "Intended Audience :: Science/Research",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
)
