"Package metadata, read from settings.ini: the only place that holds it."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
lib = settings["lib_name"]
version_classes = ["Development Status :: 3 - Alpha", "Programming Language :: Python :: 3"]

setup(
    name=lib,
    version=settings["version"],
    description=settings["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    keywords=settings["keywords"].split(),
    license="Apache-2.0",
    classifiers=version_classes,
    python_requires=f">={settings['min_python']}",
    # The report notebooks live in reports/; in a wheel they travel as data of a sub-package.
    packages=[*find_packages(include=[lib, f"{lib}.*"]), f"{lib}.report_notebooks"],
    package_dir={lib: settings["lib_path"], f"{lib}.report_notebooks": "reports"},
    package_data={f"{lib}.report_notebooks": ["*.ipynb"]},
    install_requires=settings["requirements"].split(),
    extras_require={extra: settings[f"{extra}_requirements"].split() for extra in ("dev", "docs", "dask")},
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        "nbdev": [f"{lib}={lib}._modidx:d"],
    },
)
