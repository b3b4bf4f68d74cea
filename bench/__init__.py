"""Measures spinwheel against its bars: `python -m bench` (docs/performance.md).

Scenarios (TOML) say what, `runner` knows how a run goes, one module per kind of measurement takes samples,
`report` renders. Nothing of the product imports this package.
"""
