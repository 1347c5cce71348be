"""What tests, benchmarks and make targets share; nothing of it is installed.

- `control_plane`: a real control plane (etcd, apiserver, controllers, scheduler), built once a machine, and a player
  that plays its nodes and pods.
- `node`: a real Kubernetes node on this machine, and the images that run on it.
- `rehearsal`: many runs at once on played nodes, and what must not be seen meanwhile.
- `operator_process`: the operator as a process of its own, under the role that the chart ships.
- `engine_server`, `s3_server`, `s3_proxy`: a real vLLM behind its supervisor, a real S3 server, a proxy before it.
- `measuring`: what an operator costs. `ports`: free ports.
- `steps`: what `make test` and `.ci/run` run side by side. `house_picture`: draws the import contracts.
"""
