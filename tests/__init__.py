"""The tests, mirroring the package's rooms; a package so that an installed one called `tests` cannot take its place."""
