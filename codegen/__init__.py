"""Turn derived maps into code: a tensor program, its backward program, and the text of each target.

The stages, each one function with one input and one output:

    plan.plan         CancellingMap -> Plan       what is computed forwards, saved, and computed backwards
    lower.lower       Layer -> Program            indexed sums become contractions and pointwise instructions
    adjoint.adjoint   Program -> Program          reverse mode on the instructions
    targets.torch     Plan -> text                one folder a target: printer and templates
    package.write     Plans -> folder             the generated package, checked or replaced as a whole

Not done here: no mathematics of any layer, which comes from ``derive``; no import of torch.
"""
