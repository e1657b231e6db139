"""The command `pyp2p`: one small file per group of commands; `main.py` has the parser and imports the rest."""
