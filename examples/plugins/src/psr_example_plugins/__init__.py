"""What PSR finds here by name: a judge, a grader, a storage scheme. `pyproject.toml` names them as entry points."""
