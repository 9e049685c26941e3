"""What is wrong with a training step of any torch model, and how far its layers are from ideal steps.

    model -> layers            which layers can be judged, and why the others cannot
    -> observe, capture        one pass: what each layer read, and the gradient that met its output
    -> step                    the derived kernel's prediction of the gradient's step against the step itself
    -> scores                  attention: queries times keys, whose kernel is derived too
    -> optimizer, parts        the user's own step: what of each activation's change is whose
    -> differentiation         modules of unknown kind, on a few samples
    -> non_finite, findings    the first number that is not finite; the verdict
    -> measure                 all of it over a few steps; ``watch`` while a model trains
    -> advice, show            the map that would correct a layer; a table, JSON, a page, loggers

Steps are taken on the model itself, and ``untouched`` puts back all that it reaches, bit by bit.
"""
