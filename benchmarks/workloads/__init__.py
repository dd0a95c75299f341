"""The workloads, by name, in the order in which they run."""

from benchmarks.workload import Workload
from benchmarks.workloads import (
    adaptive_sde,
    gbm,
    gradients,
    likelihood,
    lorenz,
    neural_ode,
    neural_sde,
    neural_sde_gradients,
    scaling,
    sde,
)

WORKLOADS: dict[str, Workload] = {
    module.WORKLOAD.name: module.WORKLOAD
    for module in (
        gbm,
        lorenz,
        neural_ode,
        neural_sde,
        neural_sde_gradients,
        likelihood,
        adaptive_sde,
        sde,
        scaling,
        gradients,
    )
}
