"""The chapters of dvc.yaml: one module per stage, each a plain function ``run(params, root, row)``."""
