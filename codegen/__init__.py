"""Turn derived maps into code: a tensor program, its backward program, and the text of each target.

``compiler`` is the driver, whose docstring lists the stages; ``catalogue`` is what the shipped package contains;
``targets.base`` lists the targets; ``package`` writes or checks a folder.

Not done here: no mathematics of any layer, which comes from ``derive``; no import of torch.
"""
