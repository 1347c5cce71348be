"""Preflight: whether what a manifest declares can be carried out, before anything takes a GPU.

`engine.py` runs every check of `checks/` over a `Subject` and gathers the findings; each check is one small function.
`psr check` and `psr run` call it in their own process, the stage `check` (`stage.py`) on a cluster. What does not
belong here: repairing anything, loading weights, and rules of fields by themselves (`psr_runtime.config` refuses
those).
"""
