"""A real control plane for tests, without nodes of its own.

`build` makes its programs, `plane` runs it (with the keys of `keys`), `client` asks it. `player` plays nodes and pods:
`nodes` makes the nodes, `pod_life` is a pod's life, `pod_status` what is written of it, `pod_ports` what it answers;
`controllers` plays the Job and Deployment controllers as well. `paths` says where objects are.
"""
