"""Configs: base.py has every field; each other file is a run, a short delta on it."""
