"""The axes of a dataset-distillation method: a folder is an axis, a module in it one entry, a class.

| axis | question | base class |
|---|---|---|
| ``sources`` | where do candidate images come from? | ``Source`` |
| ``adaptations`` | how was the generator fine-tuned? | ``Adaptation`` |
| ``guides`` | what does the sampler know of the real latents? | ``Guide`` |
| ``samplers`` | how are latents drawn? | ``Sampler`` |
| ``selections`` | which candidates are kept? | ``Selection`` |
| ``refinements`` | how is a chosen set optimised further? | ``Refinement`` |
| ``diagnostics`` | what is measured of generators, pools and sets? | ``Diagnostic`` |

Nothing is registered: the module's name is the name in params.yaml, and the one subclass of the axis' base class in
it is the entry.
"""
