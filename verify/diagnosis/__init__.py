"""Diagnose a training step of any torch model, and measure how far its layers' steps are from ideal.

    model -> layers            which layers can be judged, and why the others cannot
    -> observe, capture        one pass: each layer's input, and the gradient at its output
    -> step                    the change that the derived kernel predicts against the change of a real SGD step
    -> scores                  attention: queries times keys, whose kernel is derived too
    -> optimizer, parts        the user's own optimiser step: the contributions to each activation's change
    -> differentiation         modules of unknown kind, on a few samples
    -> non_finite, findings    the first number that is not finite; the findings
    -> measure                 all of this over a few steps; ``watch`` while a model trains
    -> advice, show            the map that would correct a layer; a table, JSON, a page, loggers

Steps are taken on the model itself; ``untouched`` restores every state that a step changes, bit for bit.
"""
