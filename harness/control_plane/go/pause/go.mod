// The container that holds a pod's namespaces on a test node.
module psr.dev/pause

go 1.25.0
