"""The executor for Kubernetes: watches feed a store, a queue drives the planner, and its plans become objects.

| module | what |
| --- | --- |
| `process.py` | the operator's process: lease, first list, watches, workers, the end |
| `kopf_adapter.py` | kopf: credentials and watches |
| `namespaces.py` | which namespaces answer; each is listed, watched and compared by itself |
| `informer.py` | what an event leads to: the store changes, keys go to the queue; the search for what vanished |
| `store.py`, `facts.py` | what is known of our objects, and of Workloads, Deployments and pods |
| `workqueue.py` | which object is reconciled next |
| `workload_state.py`, `server_state.py` | facts → `WorkloadState`, `ServerState`; pure |
| `reconciler.py` | one object: observe, plan, one status write, carry out, report |
| `older_kinds.py` | what the kinds of the cluster do not know of what is written |
| `writer.py`, `server_writer.py`, `creating.py` | every write, with its guards |
| `warning_events.py` | what Kubernetes says only in Events |
| `prober.py` | progress of running pods and the state of servers, over HTTP |
| `client.py`, `paths.py`, `lease.py` | the apiserver, where objects are, who leads |
| `metrics.py` | what is seen from outside |

A Workload's objects, what is kept of them and what they mean are its back end's (`psr_operator.backends`).
"""
