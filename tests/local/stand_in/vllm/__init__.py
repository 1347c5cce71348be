"""Stands for vLLM where a test is about `psr run` and not about answers: up at once, without weights."""
