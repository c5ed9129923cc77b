"""The paper's studies: what varies, what is measured, and one sentence made from the numbers.

A study is a section of params.yaml (``studies``). Each of its settings is params.yaml with some keys changed and one
DVC experiment; its values are kept in ``metrics/studies/<name>.csv`` under a key that covers its parameters and the
code it stands on, so that no experiment runs again.
"""
