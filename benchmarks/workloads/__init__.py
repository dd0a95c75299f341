"""The workloads, by name, in the order in which they run."""

from benchmarks.workload import Workload
from benchmarks.workloads import gbm, lorenz, neural_ode, neural_sde

WORKLOADS: dict[str, Workload] = {
    workload.name: workload for workload in (gbm.WORKLOAD, lorenz.WORKLOAD, neural_ode.WORKLOAD, neural_sde.WORKLOAD)
}
