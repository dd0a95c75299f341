"""Whether the mathematics is right, measured: ``python -m validation``.

- `check`: one measurement and its verdict
- `order`: orders of convergence by regression, with intervals
- `significance`: statistical comparisons, whose false alarms are bounded for the whole run
- `linear`, `moments`: linear SDEs with exact solutions and moments; exact moments of a method's own steps
- `fokker_planck`: densities of one-dimensional SDEs, by finite volumes
- `sections/`: what is measured, one file a section
- `run`, `table`, `report`: the run, its table in the terminal, report.html and report.json
"""
