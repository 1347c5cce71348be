"""The executor for one machine: objects in memory, Workloads and Servers as processes."""
