"""How fast it is: workloads solved by sdesolve and by its peers in turn, in one process."""
