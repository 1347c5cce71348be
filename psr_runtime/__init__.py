"""The stages of process-based self-rewarding: what runs inside a pod or a process.

`python -m psr_runtime STAGE` is the only door (see `stage.py`). Nothing here knows Kubernetes.
"""
