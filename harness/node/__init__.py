"""A real Kubernetes node on this machine, for the tests of `make test-cluster`.

`node` starts and ends it, `parts` is what it consists of, `processes` keeps its processes, `images` builds what runs on
it.
"""
