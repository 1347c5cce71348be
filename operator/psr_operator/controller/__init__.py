"""The executor for Kubernetes: kopf's informer feed a cache, a queue drives the planner, and its plans become objects.

| module | what |
| --- | --- |
| `process.py` | the operator's process: login, lease, kopf, workers, the end |
| `informer.py` | kopf's handlers: what comes in goes to the cache, and a key to the queue |
| `cache.py`, `facts.py` | what is known of our objects, and of Jobs, Deployments and pods |
| `queue.py` | which object is looked at next |
| `observe.py` | facts → `WorkloadState`, `ServerState`; pure |
| `reconcile.py` | one object: observe, plan, one status write, carry out, report |
| `apply.py` | every write, with its guards |
| `ask.py` | progress of running pods and the state of servers, over HTTP |
| `client.py`, `lease.py`, `metrics.py` | the apiserver, who leads, what can be seen from outside |
"""
