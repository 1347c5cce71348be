"""Stands for vLLM where a whole run is carried out without one: it speaks the language of `tests/search`."""
